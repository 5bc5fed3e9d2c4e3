"""Damage files at random and read them: ``python -m tests.fuzz [--cases N] [--seed S] [--reader NAME]``.

Each case is a process that was forked from one that has imported everything, with ten seconds and a limit of memory. It
ends with an error of this project, or works; anything else is a fault. The same seed makes the same cases.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from earlycrop.utils.torchvision_compat import load_torchvision
from tests.fuzz.mutations import damage
from tests.fuzz.readers import READERS, Reader

SECONDS, WAIT = 10, 60
"""Of processor time, and on the clock: waiting for a pipe takes no processor time."""
MEMORY = 3 * 2**30
"""Bytes of memory that a case may take beyond what the process has as it is forked."""
OURS = ("/earlycrop/", "/tasks/", "/leaderboards/")
ROOT = str(Path(__file__).parents[2])
REFUSED, WORKS, FAULT = "refused", "works", "fault"


def is_ours(error: BaseException) -> bool:
    """Return whether an error was raised by this project with a sentence, and not passed on from a library."""
    if isinstance(error, SystemExit):
        return error.code in (1, 2)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    is_kind = isinstance(error, ValueError) or type(error).__module__.startswith(("earlycrop.", "tasks."))
    return is_kind and frame.filename.startswith(ROOT) and any(part in frame.filename for part in OURS)


def judge(reader: Reader, folder: Path, expected: Any) -> tuple[str, str]:
    """Read a folder; return the verdict and what is wrong."""
    try:
        result = reader.read(folder)
    except BaseException as error:
        if is_ours(error):
            return REFUSED, str(error)
        return FAULT, "".join(traceback.format_exception(error)[-3:])
    if reader.exact and result != expected:
        return FAULT, "something else was read, and not refused"
    return WORKS, ""


def in_child(reader: Reader, folder: Path, expected: Any, report: int) -> None:
    """Judge a case and write the verdict to a pipe, within limits."""
    verdict, why = FAULT, "the case did not come to an end"
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        signal.alarm(WAIT)
        verdict, why = judge(reader, folder, expected)
    finally:
        os.write(report, f"{verdict}\n{why}"[:60_000].encode(errors="replace"))
        os._exit(0)


def run_case(reader: Reader, folder: Path, expected: Any) -> tuple[str, str]:
    """Return the verdict of a case that runs in a process of its own."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        in_child(reader, folder, expected, send)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if not said:
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status}"
        return FAULT, f"the process ended by {name}"
    verdict, _, why = said.partition("\n")
    return verdict, why


def write_sample(name: str, place: Path) -> None:
    """Write a reader's sound sample in a process of its own, and import here what was imported there.

    No thread is started here, which a fork would lose, and no case has to import anything. What the first readers do
    not need is not imported before: the less memory there is, the sooner it is forked.
    """
    for module in READERS[name].imports:
        load_torchvision(module)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            (place / name).mkdir()
            READERS[name].write(place / name)
            shutil.copytree(place / name, place / "copy")
            with suppress(*(() if READERS[name].sound else (ValueError,))):
                READERS[name].read(place / "copy")
            shutil.rmtree(place / "copy")
            os.write(send, " ".join(sys.modules).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        modules = pipe.read().decode().split()
    os.waitpid(child, 0)
    if not modules:
        raise RuntimeError("a sound sample is not read")
    for module in modules:
        if module not in sys.modules:
            with suppress(Exception):  # some are not imported by their name
                importlib.import_module(module)


def run_reader(name: str, cases: range, seed: int, place: Path) -> tuple[Counter[str], list[str]]:
    """Return how many cases ended how, and each fault in words."""
    reader, counts, faults = READERS[name], Counter[str](), []
    sample = place / name
    expected = reader.read(sample) if reader.exact else None
    for case in cases:
        folder, rng = place / f"case {case}", random.Random(f"{name} {seed} {case}")
        shutil.copytree(sample, folder)
        files = sorted({file for pattern in reader.damaged for file in folder.glob(pattern)})
        damage(rng.choice(files), files, rng)
        verdict, why = run_case(reader, folder, expected)
        counts[verdict] += 1
        if verdict == FAULT:
            faults.append(f"{name}, seed {seed}, case {case}: {why}")
            print(faults[-1], flush=True)
        shutil.rmtree(folder)
    return counts, faults


def numbers_of_cases(names: Sequence[str], cases: int) -> dict[str, int]:
    """Return how many cases each reader has, by its weight."""
    ends = np.cumsum([0] + [READERS[name].weight for name in names])
    return dict(zip(names, np.diff(ends * cases // ends[-1]).tolist(), strict=True))


def main() -> int:
    """Run the cases, print a table, and return 1 if there were faults."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--cases", type=int, default=200, help="of all readers together")
    parser.add_argument("--first", type=int, default=0, help="the number of each reader's first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=list(READERS), action="append")
    given = parser.parse_args()
    names = given.reader or list(READERS)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    total, faults, start = Counter[str](), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        for name, count in numbers_of_cases(names, given.cases).items():
            begin = time.perf_counter()
            write_sample(name, Path(place))
            counts, new_faults = run_reader(name, range(given.first, given.first + count), given.seed, Path(place))
            total += counts
            faults += new_faults
            shares = ", ".join(f"{counts[kind]} {kind}" for kind in (REFUSED, WORKS, FAULT))
            print(f"{name:22} {count:5} cases: {shares}, {time.perf_counter() - begin:.1f} s", flush=True)
    seconds = time.perf_counter() - start
    print(f"{total.total()} cases, {total[FAULT]} faults, {seconds:.0f} s")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
