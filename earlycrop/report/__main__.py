"""Print what could be removed from a network, before pruning it: ``python -m earlycrop.report torchvision:resnet50``.

The report goes to standard output; progress and what the network's own code prints go to standard error.

Exit codes: 0; 2 with one sentence if the network cannot be built or run; 3 if the time is up; 130 on Ctrl-C.
"""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from typing import Any, NoReturn, TextIO

import torch
from torch import Tensor

from earlycrop.graph.summary import summarize
from earlycrop.graph.text import format_summary
from earlycrop.report.network import InputError, build_network, describe_example
from earlycrop.tracing.trace import trace
from earlycrop.utils.errors import TraceError

BAD_INPUT, TIME_UP, STOPPED = 2, 3, 130
"""Exit codes."""
_log = logging.getLogger("earlycrop.report")


class _Parser(argparse.ArgumentParser):
    """Raises an error of one sentence, where argparse prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m earlycrop.report --help")


class _ProgressHandler(logging.StreamHandler[TextIO]):
    """Writes log messages to standard error with the seconds since the start, and keeps the last one."""

    step = "starting"

    def format(self, record: logging.LogRecord) -> str:
        self.step = record.getMessage()
        return f"{record.relativeCreated / 1000:5.1f} s  {self.step}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a report.

    Args:
        arguments: The command line. None is that of the process.

    Returns:
        The exit code.
    """
    try:
        options = _parse_arguments(arguments)
        with _limit_time(options.seconds), redirect_stdout(sys.stderr):
            report = _make_report(options)
        print(report)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED
    return 0


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="python -m earlycrop.report",
        description="Print what could be removed from a network, layer by layer, and what cannot be removed and why.",
        allow_abbrev=False,
    )
    parser.add_argument("target", metavar="NETWORK", help="torchvision:NAME, or package.module:callable")
    parser.add_argument(
        "--with",
        dest="keywords",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=_parse_keyword,
        help="an argument of the callable, as a Python literal or a string; may be repeated",
    )
    parser.add_argument(
        "--input",
        dest="inputs",
        metavar="1,3,224,224",
        action="append",
        default=[],
        type=lambda text: torch.rand(_parse_shape(text)),
        help="call the network with floats of this shape; repeat it for the next argument",
    )
    parser.add_argument(
        "--tokens",
        dest="inputs",
        metavar="1,16",
        action="append",
        type=lambda text: torch.zeros(_parse_shape(text), dtype=torch.long),
        help="the same with integers, all zero",
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after this time (default: 60)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    options = parser.parse_args(arguments)
    if not 0 < options.seconds <= threading.TIMEOUT_MAX:
        parser.error(f"'{options.seconds:g}' is not a time: give a number of seconds above 0")
    return options


def _parse_keyword(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _parse_shape(text: str) -> list[int]:
    try:
        shape = [int(size) for size in text.split(",")]
    except ValueError:
        shape = [0]
    if min(shape) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a shape: give positive integers, such as 1,3,224,224")
    return shape


def _make_report(options: argparse.Namespace) -> str:
    inputs: tuple[Tensor, ...] = tuple(options.inputs)
    model, example = build_network(options.target, dict(options.keywords), inputs)
    description = describe_example(example)
    try:
        graph = trace(model, example)
    except (TraceError, SystemExit) as error:
        message = " ".join(str(error).split()) if isinstance(error, TraceError) else f"the model exits ({error!r})"
        raise InputError(
            f"{message}. It was called with {description}: change that with --input or --tokens"
        ) from error
    _log.debug("summarizing")
    summary = summarize(graph, {name: type(module).__name__ for name, module in model.named_modules()})
    if options.json:
        return json.dumps({"target": options.target, "example": description, **asdict(summary)}, indent=1)
    text = format_summary(summary, shutil.get_terminal_size().columns)
    return f"{options.target}, called with {description}\n{text}"


@contextmanager
def _limit_time(seconds: float) -> Iterator[None]:
    """Write what the library logs to standard error, and end the process with a sentence after some time."""
    progress = _ProgressHandler()
    logger = logging.getLogger("earlycrop")
    logger.addHandler(progress)
    logger.setLevel(logging.DEBUG)

    def end_process() -> None:
        place = f"after {seconds:g} s, in the step '{progress.step}'"
        print(f"error: stopped {place}: allow more with --seconds, or give a smaller --input", file=sys.stderr)
        os._exit(TIME_UP)

    timer = threading.Timer(seconds, end_process)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        logger.removeHandler(progress)


if __name__ == "__main__":
    sys.exit(main())
