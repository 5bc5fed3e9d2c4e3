"""Ways to damage a file, each drawn from a generator of random numbers."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[bytes, random.Random], bytes]
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, float("nan"), "", "abc", "[/b]", "$\\nope$", "\0", "../../etc/passwd", "é" * 9,
    [], {}, [[]], {"a": {}}, [-1, 2.5], "x" * 5000,
)  # fmt: skip
"""What a value of JSON is replaced by."""
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    """Flip one bit to eight."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_early(content: bytes, rng: random.Random) -> bytes:
    """Flip bits of the first or last bytes, where headers and footers lie."""
    changed, near = bytearray(content), min(len(content), 400)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(near)
        changed[rng.choice((at, len(changed) - 1 - at))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut_short(content: bytes, rng: random.Random) -> bytes:
    """Leave the begin."""
    return content[: rng.randrange(len(content))]


def write_noise(content: bytes, rng: random.Random) -> bytes:
    """Replace a stretch by noise or zeros."""
    start = rng.randrange(len(content))
    length = min(rng.randint(1, 64), len(content) - start)
    return content[:start] + rng.choice((rng.randbytes(length), bytes(length))) + content[start + length :]


def write_extreme(content: bytes, rng: random.Random) -> bytes:
    """Replace a number of one to eight bytes by an extreme one."""
    size = rng.choice((1, 2, 4, 8))
    start = rng.randrange(max(1, len(content) - size))
    value = rng.choice(EXTREMES) & (256**size - 1)
    return content[:start] + value.to_bytes(size, rng.choice(("little", "big"))) + content[start + size :]


def move_block(content: bytes, rng: random.Random) -> bytes:
    """Insert, repeat or leave out a stretch."""
    start, length = rng.randrange(len(content)), rng.randint(1, 200)
    block = content[start : start + length]
    return rng.choice((content[:start] + block + content[start:], content[:start] + content[start + length :]))


def become_empty(content: bytes, rng: random.Random) -> bytes:
    """Leave nothing, or little that is no file of any form."""
    del content
    return rng.choice((b"", b"\0" * 100, b"PK\x03\x04", b"\x80\x05.", b"null", b"[" * 50_000, b"\xff\xfe\xfd"))


def change_json(content: bytes, rng: random.Random) -> bytes:
    """Replace, remove or nest a value of JSON, of which there may be one a line; other content gets noise."""
    try:
        lines = content.decode().splitlines() if b"\n{" in content else [content.decode()]
        at = rng.randrange(len(lines))
        value = json.loads(lines[at])
    except (ValueError, IndexError, RecursionError):
        return write_noise(content, rng)
    lines[at] = json.dumps(changed_value(value, rng))
    return "\n".join(lines).encode()


def change_header(content: bytes, rng: random.Random) -> bytes:
    """Change the header of a file of safetensors, and what stands in its metadata; other content gets noise."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        if rng.random() < 0.7:
            (key,) = header["__metadata__"]
            plan = json.loads(header["__metadata__"][key])
            plan.pop("sha256", None)
            header["__metadata__"][key] = json.dumps(changed_value(plan, rng))
        else:
            header = changed_value(header, rng)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return write_noise(content, rng)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + content[8 + length :]


def changed_value(value: Any, rng: random.Random) -> Any:
    """Return a nest of which one value is another, is gone, or is deep."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        at: Any = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        if rng.random() < 0.1:
            del copy[at]
        elif rng.random() < 0.05 and isinstance(copy, dict):
            copy[rng.choice(("__dict__", "forward", "new", ""))] = copy.pop(at)
        else:
            copy[at] = changed_value(copy[at], rng)
        return copy
    if isinstance(value, int | float) and rng.random() < 0.4:
        return rng.choice((value + 1, value - 1, -value, value * 1000, value / 3))
    return rng.choice(ODD)


DAMAGES: tuple[Damage, ...] = (
    flip_bits, flip_early, cut_short, write_noise, write_extreme, move_block, become_empty, change_json, change_json,
    change_header, change_header,
)  # fmt: skip


def damage(file: Path, others: list[Path], rng: random.Random) -> None:
    """Damage a file in place; one time in ten it becomes another, a folder, a pipe, a loop of links, or nothing."""
    if rng.random() < 0.9:
        content = file.read_bytes()
        for _ in range(rng.choice((1, 1, 1, 2))):
            content = rng.choice(DAMAGES)(content, rng) if content else content
        file.write_bytes(content)
        return
    content = rng.choice(others).read_bytes()
    file.unlink()
    match rng.randrange(5):
        case 0:
            file.write_bytes(content)
        case 1:
            file.mkdir()
        case 2:
            os.mkfifo(file)
        case 3:
            file.symlink_to(file)
