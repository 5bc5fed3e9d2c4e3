"""The preflight: figures that real cuts confirm, reasons and what would help, and an end whatever the network does."""

from __future__ import annotations

import ast
import copy
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import earlycrop
from earlycrop import shrink, trace
from earlycrop.graph.summary import HELP, UNUSED, summarize
from earlycrop.graph.text import format_count, format_summary
from earlycrop.report import __main__
from tasks._torchvision import load
from tests.networks import CASES, build

ROOT = Path(earlycrop.__file__).parent.parent


def start(*arguments: str, path: Path | None = None, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), str(ROOT)])
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    line = [sys.executable, "-m", "earlycrop.report", *arguments]
    return subprocess.Popen(line, text=True, cwd=ROOT, env=environment, **options)


Ran = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Ran:
    """The command as this process runs it, and in its own what builds the network: exit code, output, error output.

    With ``path``, which comes first where modules are looked for.
    """
    monkeypatch.chdir(ROOT)
    for name, value in (("COLUMNS", "80"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)

    def run(*arguments: str, path: Path | None = None) -> tuple[int, str, str]:
        if path is not None:
            monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(path), str(ROOT)]))
        code = __main__.main(arguments)
        return code, *capfd.readouterr()

    return run


def sentence(err: str) -> str:
    """The one line that is an error, where there is no traceback."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


# --- figures


def test_figures_by_hand() -> None:
    """6 - 10 - 8 - 3, on five samples: what stays of each hidden layer is one node."""
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    found = summarize(trace(model, torch.zeros(5, 6)), {"0": "Linear"})
    assert (found.nodes, found.weights, found.parameters, found.macs) == (18, 164, 185, 5 * 164)
    first, second, last = found.rows
    assert (first.kind, first.outputs, first.removable, first.parameters, first.macs) == ("Linear", 10, 10, 70, 300)
    assert (first.saves_parameters, first.saves_macs) == (9 * (6 + 1) + 9 * 8, 5 * 9 * (6 + 8))
    assert (second.saves_parameters, second.saves_macs) == (7 * (10 + 1) + 7 * 3, 5 * 7 * (10 + 3))
    assert (last.outputs, last.removable, last.saves_parameters) == (3, 0, 0)
    half, most, all_ = found.cuts
    assert (all_.asked, all_.weights, all_.parameters, all_.macs) == (None, 6 + 1 + 3, 15, 50)
    assert (half.asked, most.asked) == (0.5, 0.9)
    assert 82 - 18 < half.weights <= 82  # one node more than needed at most: 18 weights
    assert half.macs == 5 * half.weights
    assert all_.weights <= most.weights <= 16
    (region,) = found.frozen
    assert (region.why, region.layers, region.outputs) == ("the model returns it", ("4",), 3)


@pytest.mark.parametrize("name", [n for n in CASES if n != "lstm"])  # torch's counter does not see inside an LSTM
def test_what_a_layer_saves_is_what_its_cut_saves(name: str) -> None:
    model, example = build(name)
    graph = trace(model, example)
    found = summarize(graph)
    size = sum(p.numel() for p in model.parameters())
    assert size == found.parameters == found.rest_parameters + sum(row.parameters for row in found.rows)
    assert _macs(model, example) == found.macs == sum(row.macs for row in found.rows)
    kept = {int(slot.nodes.min()) for slot in graph.axes if (slot.nodes >= 0).all()}
    nodes = {layer.name: set(layer.nodes[layer.nodes >= 0].tolist()) for layer in graph.layers}
    for row in found.rows:
        small = copy.deepcopy(model)
        shrink(small, graph, nodes.get(row.layer, set()) - kept)
        assert size - sum(p.numel() for p in small.parameters()) == row.saves_parameters
        assert found.macs - _macs(small, example) == row.saves_macs


def _macs(model: nn.Module, example: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    return counter.get_total_flops() // 2


def test_numbers_for_people() -> None:
    told = {0: "0", 864: "864", 999: "999", 1000: "1.00k", 9994: "9.99k", 9996: "10.0k", 99_949: "99.9k"}
    told |= {99_951: "100k", 999_499: "999k", 999_500: "1.00M", 25_557_032: "25.6M", 4_089_184_256: "4.09G"}
    assert {n: format_count(n) for n in told} == told


def test_a_long_name_has_a_line_to_itself() -> None:
    model = nn.Sequential()
    model.add_module("a_name_as_long_as_" * 4 + "this", nn.Linear(6, 10))
    model.add_module("last", nn.Linear(10, 3))
    found = summarize(trace(model, torch.zeros(1, 6)))
    narrow, wide = format_summary(found, 80).splitlines(), format_summary(found).splitlines()
    assert max(map(len, narrow)) <= 80
    after = narrow[narrow.index("a_name_as_long_as_" * 4 + "this") + 1]
    assert after.split() == ["10/10", "70", "60", "87.4%", "90.0%"]  # 9 (6 + 1) + 9 x 3 of 103, 81 of 90
    assert any(line.startswith("a_name") and line.endswith("90.0%") for line in wide)


def test_a_cut_that_is_out_of_reach_says_so() -> None:
    model = nn.Sequential(nn.Linear(6, 2), nn.ReLU(), nn.Linear(2, 30))  # at least 36 of 72 weights stay
    lines = format_summary(summarize(trace(model, torch.zeros(1, 6)))).splitlines()
    assert next(line for line in lines if line.startswith("50%")).split()[:4] == ["50%", "of", "weights", "cut"]
    assert next(line for line in lines if line.startswith("90%")).startswith("90% of weights: out of reach")


def test_equal_reasons_are_one_region() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 4)) for _ in range(5)
            )
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for layer in self.layers:
                x = x + layer(x)
            return self.last(x)

    told = trace(Normed(), torch.zeros(2, 3)).report()
    assert told.count("it is normalised over") == 1
    assert "6 layers, 24 outputs: layers.0.1 and" not in told
    assert "6 layers, 24 outputs: layers.0.3 and 5 more" in told
    assert "would help: nothing in place: mean and variance" in told


def test_advice_is_for_reasons_that_are_given() -> None:
    sources = [p for p in Path(earlycrop.__file__).parent.rglob("*.py") if p.name != "summary.py"]
    given = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for reason in set(HELP) - {UNUSED}:
        assert any(g.startswith(reason) for g in given), reason


# --- the command


def test_text_for_a_pair() -> None:
    process = start("tests.reportable:pair")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0
    assert out.splitlines()[0] == "tests.reportable:pair, called with float32 of 5 x 6"
    assert "18 nodes can be removed; 164 weights, 185 parameters, 820 MACs on the example." in out
    assert ["0", "Linear", "10/10", "70", "300", "73.0%", "76.8%"] in [line.split() for line in out.splitlines()]
    assert max(map(len, out.splitlines())) <= 80
    assert "a line of the network's own" in err
    doing = [line.split()[2:] for line in err.splitlines() if " s  " in line]
    # what takes long is said again every ten seconds
    changes = [words for words, before in zip(doing, [None, *doing], strict=False) if words != before]
    assert changes == [["starting"], ["building"], ["tracing"], ["trying", "cuts"], ["summing", "up"]]


def test_json_with_arguments_and_an_input(ran: Ran) -> None:
    more = ["--with", "hidden=12", "--with", "name=a word", "--input", "2,6", "--json"]
    code, out, _ = ran("tests.reportable:mlp", *more)
    told = json.loads(out)
    assert code == 0
    assert (told["nodes"], told["weights"], told["macs"]) == (20, 6 * 12 + 12 * 8 + 24, 2 * (6 * 12 + 12 * 8 + 24))
    assert told["rows"][0] == {
        "layer": "0", "kind": "Linear", "outputs": 12, "removable": 12, "parameters": 84, "macs": 144,
        "saves_parameters": 11 * (7 + 8), "saves_macs": 2 * 11 * (6 + 8),
    }  # fmt: skip
    assert told["frozen"][0]["layers"] == ["4"]
    assert [cut["asked"] for cut in told["cuts"]] == [0.5, 0.9, None]


@pytest.mark.slow
def test_tokens_and_several_inputs(ran: Ran) -> None:
    code, out, _ = ran("tests.reportable:words", "--tokens", "2,7")
    assert code == 0
    assert "called with int64 of 2 x 7" in out
    code, out, _ = ran("tests.reportable:Two", "--tokens", "2,7", "--input", "2,7,6")
    assert code == 0
    assert "called with int64 of 2 x 7, float32 of 2 x 7 x 6" in out


def test_attention_of_torch_says_why_no_head_goes(ran: Ran) -> None:
    code, out, _ = ran("tests.reportable:attention")
    assert code == 0
    assert "it insists on embed_dim, and can lose neither heads nor width" in " ".join(out.split())
    assert any(line.split()[-5:-2] == ["16/16", "144", "1.28k"] for line in out.splitlines())  # its feed-forward


def test_a_torchvision_model_by_name(tmp_path: Path, ran: Ran) -> None:
    code, out, _ = ran("torchvision:squeezenet1_1", "--json", path=tmp_path)
    told = json.loads(out)
    published = load("torchvision.models").SqueezeNet1_1_Weights.IMAGENET1K_V1.meta
    assert code == 0
    assert told["example"] == "float32 of 1 x 3 x 224 x 224"
    assert told["parameters"] == published["num_params"]
    assert round(told["macs"] / 1e9, 3) == published["_ops"]
    code, _, err = ran("torchvision:resnet5O", path=tmp_path)
    assert code == 2
    assert "torchvision has no model 'resnet5O'" in sentence(err)


@pytest.mark.slow
def test_a_backbone_is_not_downloaded(tmp_path: Path, ran: Ran) -> None:
    """Its weights would be, into this folder, if they were asked for."""
    (tmp_path / "sitecustomize.py").write_text(f"import os\nos.environ['TORCH_HOME'] = {str(tmp_path / 'home')!r}\n")
    code, out, _ = ran("torchvision:lraspp_mobilenet_v3_large", "--with", "num_classes=5", path=tmp_path)
    assert code == 0
    assert "the model returns it" in out
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_torchvision_network_by_callable(ran: Ran) -> None:
    code, out, _ = ran("tests.reportable:swin", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["parameters"] == 28_288_354
    assert {row["layer"]: row for row in told["rows"]}["features.7.1.mlp.0"]["removable"] == 3072


# --- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["resnet18"], "'resnet18' names no network: give torchvision:NAME or package.module:callable"),
        (["a:b", "--input", "1,x"], "'1,x' is no shape: give positive whole numbers, such as 1,3,224,224"),
        (["a:b", "--tokens", "0,3"], "'0,3' is no shape"),
        (["a:b", "--with", "hidden"], "'hidden' is not KEY=VALUE"),
        (["a:b", "--seconds", "-1"], "'-1' is no time: give a number of seconds above 0"),
        (["a:b", "--seconds", "inf"], "'inf' is no time"),
        (["a:b", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        ([], "the following arguments are required: NETWORK"),
    ],
)
def test_a_command_that_is_wrong(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in sentence(err)


WRONG: list[Any] = [
    (["no_such_package.models:net"], "there is no module 'no_such_package': run this where"),
    (["tests.reportable:no_such"], "'tests.reportable' has no 'no_such'"),
    (["tests.reportable:fails"], "cannot be built: called with () it raises KeyError: 'no such key'. --with"),
    (["tests.reportable:leaves"], "it raises SystemExit: goodbye"),
    (
        ["tests.reportable:lazy"],
        "'tests.reportable:lazy': '0.weight' has no shape yet: run the model on one batch first",
    ),
    (["tests.reportable:ready", "--input", "1,5"], "fails on the example"),
]
WRONG_TOO: list[Any] = [
    (["tests.broken_import:net"], "'import tests.broken_import' fails (ModuleNotFoundError: No module named 'no_"),
    (["tests.reportable:NUMBER"], "is a int, and not something to call"),
    (
        ["tests.reportable:script"],
        "'tests.reportable:script': the model is a script of torch.jit, and cannot be watched",
    ),
    (["tests.reportable:no_module"], "'tests.reportable:no_module' gives a str: it must give a torch.nn.Module"),
    (["tests.reportable:mlp", "--with", "widht=3"], "called with (widht=3) it raises TypeError"),
    (["tests.reportable:ready"], "Give --input 1,3,224,224 for floats of that shape, --tokens 1,16 for integers"),
]
"""Of the same parts of the code, each in a process of its own."""


@pytest.mark.parametrize(
    ("arguments", "told"), [*WRONG, *(pytest.param(*case, marks=pytest.mark.slow) for case in WRONG_TOO)]
)
def test_a_network_that_is_wrong(arguments: list[str], told: str, ran: Ran) -> None:
    code, out, err = ran(*arguments)
    assert code == 2
    assert out == ""
    assert told in sentence(err)


def test_a_torchvision_that_cannot_be_imported(tmp_path: Path, ran: Ran) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator does not exist')\n")
    code, _, err = ran("torchvision:resnet18", path=tmp_path)
    assert code == 2
    assert "torchvision cannot be imported (RuntimeError: operator does not exist): install" in sentence(err)


def test_a_process_that_dies(ran: Ran) -> None:
    code, out, err = ran("tests.reportable:dies")
    assert code == 1
    assert out == ""
    assert "the process was ended by signal 9 while building: is there enough memory" in sentence(err)


# --- time


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about is not alive."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_time_up_ends_all_that_was_started(tmp_path: Path, ran: Ran) -> None:
    """The network holds the interpreter for good, and has started a process."""
    note = tmp_path / "note"
    begin = time.monotonic()
    code, out, err = ran("tests.reportable:hangs", "--with", f"note={note}", "--seconds", "20")
    assert 20 <= time.monotonic() - begin < 60
    assert (code, out) == (3, "")
    assert "stopped after 20 s, while building: give it more by --seconds" in sentence(err)
    started = [int(pid) for pid in note.read_text().split()]
    assert len(started) == 2
    assert not any(map(_alive, started))


def test_control_c_ends_it(tmp_path: Path) -> None:
    note = tmp_path / "note"
    process = start("tests.reportable:hangs", "--with", f"note={note}")
    while not (note.exists() and len(note.read_text().split()) == 2):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "stopped"
    assert not any(_alive(int(pid)) for pid in note.read_text().split())


@pytest.mark.slow
def test_the_line_on_a_terminal_counts_seconds() -> None:
    ours, theirs = pty.openpty()
    process = start("tests.reportable:Waits", "--input", "1,6", "--seconds", "15", stderr=theirs)
    os.close(theirs)
    told = b""
    try:
        while part := os.read(ours, 4096):
            told += part
    except OSError:  # how a terminal says that nobody holds its other end
        pass
    finally:
        os.close(ours)
    process.communicate(timeout=30)
    assert process.returncode == 3
    assert told.count(b"\r\x1b[K") > 20
    assert b"s  tracing" in told
    assert b"stopped after 15 s, while tracing" in told
