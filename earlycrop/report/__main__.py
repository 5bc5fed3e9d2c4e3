"""What could be removed from a network, before anything is: ``python -m earlycrop.report torchvision:resnet50``.

The network is a torchvision model's name, or ``package.module:callable``, where the callable gives a module, or a pair
of a module and what to call it with. Its removable outputs, their parameters and multiply-accumulates, what a cut would
leave, and every frozen region with its reason go to standard output; what is being done, to standard error. The work is
done in a process of its own, which is ended when the time is up.

Exits with 0; with 2 and one sentence where the network cannot be built or run; with 3 when the time was up; with 1
where the process died; with 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from queue import Empty, SimpleQueue
from time import perf_counter
from typing import Any, NoReturn

from earlycrop.report.preflight import Request

TICK = 0.2
"""Seconds between two looks at the clock."""
BAD_INPUT, DIED, TIME_UP, STOPPED = 2, 1, 3, 130
"""Exit codes."""


class _Failure(Exception):
    """The end without a report: a sentence and an exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in a sentence, as every other error here."""

    def error(self, message: str) -> NoReturn:
        raise _Failure(f"{message}; python -m earlycrop.report --help tells more", BAD_INPUT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a report; the exit code."""
    try:
        print(_answer(_request(arguments)))
    except _Failure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED
    return 0


def _request(arguments: Sequence[str] | None) -> Request:
    parser = _Parser(
        prog="python -m earlycrop.report",
        description="What could be removed from a network, per layer, and what cannot and why.",
        allow_abbrev=False,
    )
    parser.add_argument("target", metavar="NETWORK", help="torchvision:NAME, or package.module:callable")
    parser.add_argument(
        "--with", dest="keywords", metavar="KEY=VALUE", action="append", default=[], type=_keyword,
        help="an argument of the callable, a Python literal or else a string; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--input", dest="inputs", metavar="1,3,224,224", action="append", type=lambda s: ("input", _shape(s)),
        help="call the model with floats of this shape; repeated for its next argument",
    )  # fmt: skip
    parser.add_argument(
        "--tokens", dest="inputs", metavar="1,16", action="append", type=lambda s: ("tokens", _shape(s)),
        help="the same with integers, all zero",
    )  # fmt: skip
    parser.add_argument("--seconds", type=_seconds, default=60.0, help="stop after this long (default 60)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(arguments)
    place, _, name = options.target.partition(":")
    if not place or not name:
        raise _Failure(
            f"'{options.target}' names no network: give torchvision:NAME or package.module:callable", BAD_INPUT
        )
    return Request(
        target=options.target, keywords=dict(options.keywords), inputs=options.inputs or [], as_json=options.json,
        width=shutil.get_terminal_size().columns, seconds=options.seconds,
    )  # fmt: skip


def _keyword(argument: str) -> tuple[str, str]:
    key, equals, value = argument.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"'{argument}' is not KEY=VALUE")
    return key, value


def _shape(argument: str) -> list[int]:
    try:
        shape = [int(n) for n in argument.split(",")]
    except ValueError:
        shape = [0]
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"'{argument}' is no shape: give positive whole numbers, such as 1,3,224,224")
    return shape


def _seconds(argument: str) -> float:
    try:
        seconds = float(argument)
    except ValueError:
        seconds = 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise argparse.ArgumentTypeError(f"'{argument}' is no time: give a number of seconds above 0")
    return seconds


def _answer(request: Request) -> str:
    """What the other process reports, within the time."""
    start = perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "earlycrop.report.preflight", json.dumps(asdict(request))],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    told: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(child, told), daemon=True).start()
    line = _Line()
    try:
        while True:
            elapsed = perf_counter() - start
            line.show(elapsed)
            if elapsed >= request.seconds:
                raise _Failure(
                    f"stopped after {request.seconds:g} s, while {line.doing}: give it more by --seconds, or a smaller "
                    "--input",
                    TIME_UP,
                )
            try:
                message = told.get(timeout=min(TICK, request.seconds - elapsed))
            except Empty:
                continue
            if message is None:
                raise _Failure(_death(child.poll(), line.doing), DIED)
            if "error" in message:
                raise _Failure(message["error"], BAD_INPUT)
            if "report" in message:
                return str(message["report"])
            line.doing = message["doing"]
    finally:
        line.clear()
        _end(child)


def _listen(child: subprocess.Popen[str], told: SimpleQueue[dict[str, Any] | None]) -> None:
    assert child.stdout is not None
    with child.stdout:
        for message in child.stdout:
            told.put(json.loads(message))
    child.wait()
    told.put(None)


def _end(child: subprocess.Popen[str]) -> None:
    """End the process and all that it started."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended by itself
            child.kill()
    else:
        child.kill()
    child.wait()


def _death(code: int | None, doing: str) -> str:
    if code is not None and code < 0:
        return f"the process was ended by signal {-code} while {doing}: is there enough memory for this network?"
    return f"the process ended with code {code} while {doing}; what it said is above"


class _Line:
    """A line on standard error: the seconds, and what is being done. Where that is no terminal, one a change and every
    ten seconds.
    """

    def __init__(self) -> None:
        self.doing = "starting"
        self.shown, self.next = "", 0.0
        self.terminal = sys.stderr.isatty()

    def show(self, elapsed: float) -> None:
        if self.terminal:
            print(f"\r\033[K{elapsed:5.1f} s  {self.doing}", end="", file=sys.stderr, flush=True)
        elif self.doing != self.shown or elapsed >= self.next:
            print(f"{elapsed:5.1f} s  {self.doing}", file=sys.stderr, flush=True)
            self.shown, self.next = self.doing, elapsed + 10

    def clear(self) -> None:
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
