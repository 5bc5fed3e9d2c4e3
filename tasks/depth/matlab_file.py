"""Read lists of numbers from a MATLAB v5 file, of which nothing else is needed.

The format is that of "MAT-File Format" of The MathWorks, level 5. What is read is checked against what the file has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HEADER, ALIGNMENT = 128, 8
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Type of an element -> NumPy's."""
MATRIX, COMPRESSED = 14, 15
LARGEST = 2**24
"""Bytes that an array may take."""


def read_numbers(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of numbers in a file by name, each in one dimension.

    Raises:
        ValueError: It is no such file, or not whole.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or not content.startswith(b"MATLAB 5.0"):
        raise ValueError("it is no MATLAB v5 file")
    arrays = {}
    for kind, data in _elements(content[HEADER:], order):
        if kind == COMPRESSED:
            kind, data = next(_elements(_decompressed(data), order), (0, b""))
        if kind == MATRIX:
            name, numbers = _array(data, order)
            arrays[name] = numbers
    return arrays


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each element."""
    at = 0
    while at + ALIGNMENT <= len(data):
        first, second = (int(n) for n in np.frombuffer(data, f"{order}u4", 2, at))
        if first >> 16:  # a short element has its size and its content in these eight bytes
            kind, size, start, step = first & 0xFFFF, first >> 16, at + 4, ALIGNMENT
        else:
            kind, size, start = first, second, at + ALIGNMENT
            step = ALIGNMENT + (size if kind == COMPRESSED else -(-size // ALIGNMENT) * ALIGNMENT)
        if start + size > len(data) or (first >> 16 and size > 4):
            raise ValueError(f"an element of {size:,} bytes does not fit into it")
        yield kind, data[start : start + size]
        at += step


def _decompressed(data: bytes) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        unpacked = unpacker.decompress(data, LARGEST)
    except zlib.error as error:
        raise ValueError(f"it does not unpack ({error})") from None
    if not unpacker.eof and not unpacker.unconsumed_tail:
        raise ValueError("it is cut short")
    if unpacker.unconsumed_tail:
        raise ValueError(f"an element unpacks to more than {LARGEST:,} bytes")
    return unpacked


def _array(data: bytes, order: str) -> tuple[str, np.ndarray]:
    """Return an array's name and numbers: after its flags, its dimensions and its name."""
    parts = list(_elements(data, order))
    if len(parts) < 4 or parts[3][0] not in NUMBERS or len(parts[1][1]) % 4:
        return "", np.empty(0)
    dims = np.frombuffer(parts[1][1], f"{order}i4")
    kind, content = parts[3]
    number = np.dtype(order + NUMBERS[kind])
    if len(content) != int(np.prod(dims, dtype=object)) * number.itemsize:
        raise ValueError("an array does not have the size that it says")
    return parts[2][1].decode("ascii", errors="replace"), np.frombuffer(content, number)
