"""Build a network by name, trace it and sum it up: what ``earlycrop.report`` runs in a process that it can end.

Run as ``python -m earlycrop.report.preflight REQUEST`` with a request in JSON. What it is doing, and then the report or
one sentence on what is wrong, go to standard output, a JSON object a line; all that the network's code prints goes to
standard error.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import logging
import os
import signal
import sys
from dataclasses import asdict, dataclass
from functools import reduce
from io import TextIOWrapper
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from earlycrop.graph.summary import summarize
from earlycrop.graph.text import format_summary
from earlycrop.tracing.trace import trace
from earlycrop.utils.errors import TraceError
from earlycrop.utils.torchvision_compat import load_torchvision
from earlycrop.utils.validation import check_network

TORCHVISION = "torchvision"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to report on, and how.

    target: ``torchvision:NAME`` or ``package.module:callable``. keywords: what it is called with, as Python literals;
    what is none is a string. inputs: for each of the model's positional arguments, "input" (floats) or "tokens"
    (integers) and its shape. as_json: JSON, not text. width: columns of the text. seconds: after this the process ends
    itself.
    """

    target: str
    keywords: dict[str, str]
    inputs: list[tuple[str, list[int]]]
    as_json: bool
    width: int
    seconds: float


class RequestError(Exception):
    """What was asked for cannot be done, in a sentence."""


class _Teller(logging.Handler):
    """Passes on what the tracer says it is doing."""

    def __init__(self, out: TextIO) -> None:
        super().__init__()
        self.out = out

    def emit(self, record: logging.LogRecord) -> None:
        self.tell("doing", record.getMessage())

    def tell(self, what: str, value: Any) -> None:
        print(json.dumps({what: value}), file=self.out, flush=True)


def main(arguments: list[str]) -> None:
    """Answer the request that is the one argument."""
    request = Request(**json.loads(arguments[0]))
    if hasattr(signal, "alarm"):  # should whoever waits be gone by then, nobody else would end this
        signal.alarm(int(request.seconds) + 5)
    teller = _Teller(os.fdopen(os.dup(1), "w"))
    os.dup2(2, 1)
    if isinstance(sys.stdout, TextIOWrapper):  # what the network says is there before this process is ended
        sys.stdout.reconfigure(line_buffering=True)
    logger = logging.getLogger("earlycrop")
    logger.addHandler(teller)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        teller.tell("report", _report(request, teller))
    except RequestError as error:
        teller.tell("error", str(error))


def _report(request: Request, teller: _Teller) -> str:
    teller.tell("doing", "building")
    model, example = _built(request)
    try:
        graph = trace(model, example)
    except TraceError as error:
        why = " ".join(str(error).split())
        raise RequestError(
            f"{why}. It was called with {_described(example)}: --input and --tokens change that"
        ) from error
    teller.tell("doing", "summing up")
    found = summarize(graph, {name: type(m).__name__ for name, m in model.named_modules()})
    if request.as_json:
        return json.dumps({"target": request.target, "example": _described(example), **asdict(found)}, indent=1)
    return f"{request.target}, called with {_described(example)}\n" + format_summary(found, request.width)


def _built(request: Request) -> tuple[nn.Module, Any]:
    """The model and what to call it with."""
    place, _, name = request.target.partition(":")
    given = {key: _literal(value) for key, value in request.keywords.items()}
    make: Any
    if place == TORCHVISION:
        make, keywords = _torchvision(name), {"weights": None}
        if "weights_backbone" in inspect.signature(make).parameters:  # a detector's would be downloaded
            keywords["weights_backbone"] = None
        found = _called(request.target, make, {**keywords, **given})
        example: Any = torch.rand(1, 3, 224, 224)
    else:
        make, example = _named(place, name), None
        found = make if isinstance(make, nn.Module) else _called(request.target, make, given)
        if isinstance(found, tuple) and len(found) == 2:
            found, example = found
    if not isinstance(found, nn.Module):
        raise RequestError(
            f"'{request.target}' gives a {type(found).__name__}: it must give a torch.nn.Module, or a pair of one and "
            "what to call it with"
        )
    try:
        check_network(found)
    except ValueError as error:
        raise RequestError(f"'{request.target}': {error}") from error
    if request.inputs:
        example = tuple(torch.zeros(n, dtype=torch.long) if k == "tokens" else torch.rand(n) for k, n in request.inputs)
    if example is None:
        raise RequestError(
            f"what is '{request.target}' called with? Give --input 1,3,224,224 for floats of that shape, --tokens 1,16 "
            "for integers, or let the callable return a pair (module, example)"
        )
    return found, example


def _torchvision(name: str) -> Any:
    try:
        models = load_torchvision("torchvision.models")
    except Exception as error:  # compiled operators that do not fit this torch raise RuntimeError, and more
        raise RequestError(
            f"torchvision cannot be imported ({type(error).__name__}: {_first_line(error)}): install the one made for "
            f"torch {torch.__version__}"
        ) from error
    if name not in models.list_models():
        raise RequestError(f"torchvision has no model '{name}': torchvision.models.list_models() names them")
    return models.get_model_builder(name)


def _named(place: str, name: str) -> Any:
    try:
        module = importlib.import_module(place)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            raise RequestError(
                f"there is no module '{error.name}': run this where 'import {place}' works, or set PYTHONPATH"
            ) from error
        raise RequestError(f"'import {place}' fails ({type(error).__name__}: {_first_line(error)})") from error
    try:
        found = reduce(getattr, name.split("."), module)
    except AttributeError as error:
        raise RequestError(f"'{place}' has no '{name}'") from error
    if not callable(found):
        raise RequestError(f"'{place}:{name}' is a {type(found).__name__}, and not something to call")
    return found


def _called(target: str, make: Any, keywords: dict[str, Any]) -> Any:
    try:
        return make(**keywords)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{k}={v!r}" for k, v in keywords.items())
        raise RequestError(
            f"'{target}' cannot be built: called with ({given}) it raises {type(error).__name__}: {_first_line(error)}"
            ". --with KEY=VALUE gives it arguments"
        ) from error


def _literal(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _described(example: Any) -> str:
    """What a model is called with, in a few words."""
    if isinstance(example, Tensor):
        return f"{str(example.dtype).removeprefix('torch.')} of {' x '.join(map(str, example.shape)) or 'no dimension'}"
    if isinstance(example, tuple):
        return ", ".join(map(_described, example))
    if isinstance(example, dict):
        return ", ".join(f"{name}: {_described(value)}" for name, value in example.items())
    return f"a {type(example).__name__}"


if __name__ == "__main__":
    main(sys.argv[1:])
