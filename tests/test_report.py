"""The report: costs that real cuts confirm, reasons and hints, and the command with its errors and its time limit."""

from __future__ import annotations

import ast
import copy
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
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


def start(*arguments: str, path: Path | None = None) -> subprocess.Popen[str]:
    """Start the command. ``path`` is the first place to import modules from."""
    environment = {**os.environ, "COLUMNS": "80", "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), str(ROOT)])
    command = [sys.executable, "-m", "earlycrop.report", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, text=True, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe)


def run(*arguments: str, path: Path | None = None) -> tuple[int, str, str]:
    """Run the command in a process: exit code, standard output, standard error."""
    process = start(*arguments, path=path)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def sentence(err: str) -> str:
    """Return the one line that is an error; there is no traceback."""
    assert "Traceback" not in err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    return line


# --- the summary and its text


def test_a_graph_prints_its_report() -> None:
    model, example = build("mlp")
    graph = trace(model, example)
    assert str(graph) == graph.report() == format_summary(summarize(graph))
    assert repr(graph) == "Graph(nodes=18, weights=164, layers=3)"
    assert type(replace(graph, count=graph.count)) is type(graph) is earlycrop.Graph


def test_costs_by_hand() -> None:
    """6 - 10 - 8 - 3, on five samples: one node of each hidden layer is kept."""
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))
    summary = summarize(trace(model, torch.zeros(5, 6)), {"0": "Linear"})
    assert (summary.nodes, summary.weights, summary.parameters, summary.macs) == (18, 164, 185, 5 * 164)
    first, second, last = summary.rows
    assert (first.kind, first.outputs, first.removable, first.parameters, first.macs) == ("Linear", 10, 10, 70, 300)
    assert (first.saves_parameters, first.saves_macs) == (9 * (6 + 1) + 9 * 8, 5 * 9 * (6 + 8))
    assert (second.saves_parameters, second.saves_macs) == (7 * (10 + 1) + 7 * 3, 5 * 7 * (10 + 3))
    assert (last.outputs, last.removable, last.saves_parameters) == (3, 0, 0)
    half, ninety, all_ = summary.cuts
    assert (all_.target, all_.weights, all_.parameters, all_.macs) == (None, 6 + 1 + 3, 15, 50)
    assert (half.target, ninety.target) == (0.5, 0.9)
    assert 82 - 18 < half.weights <= 82  # one node more than needed at most: 18 weights
    assert half.macs == 5 * half.weights
    assert all_.weights <= ninety.weights <= 16
    (region,) = summary.frozen
    assert (region.why, region.layers, region.outputs) == ("the model returns it", ("4",), 3)


@pytest.mark.parametrize("name", [n for n in CASES if n != "lstm"])  # torch's counter does not see inside an LSTM
def test_what_a_layer_saves_is_what_its_cut_saves(name: str) -> None:
    model, example = build(name)
    graph = trace(model, example)
    summary = summarize(graph)
    size = sum(p.numel() for p in model.parameters())
    assert size == summary.parameters == summary.other_parameters + sum(row.parameters for row in summary.rows)
    assert _macs(model, example) == summary.macs == sum(row.macs for row in summary.rows)
    kept = {int(axis.nodes.min()) for axis in graph.axes if (axis.nodes >= 0).all()}
    nodes = {layer.name: set(layer.nodes[layer.nodes >= 0].tolist()) for layer in graph.layers}
    for row in summary.rows:
        small = copy.deepcopy(model)
        shrink(small, graph, nodes.get(row.layer, set()) - kept)
        assert size - sum(p.numel() for p in small.parameters()) == row.saves_parameters
        assert summary.macs - _macs(small, example) == row.saves_macs


def _macs(model: nn.Module, example: Any) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(example)
    return counter.get_total_flops() // 2


def test_counts_are_formatted_with_three_digits() -> None:
    texts = {0: "0", 864: "864", 999: "999", 1000: "1.00k", 9994: "9.99k", 9996: "10.0k", 99_949: "99.9k"}
    texts |= {99_951: "100k", 999_499: "999k", 999_500: "1.00M", 25_557_032: "25.6M", 4_089_184_256: "4.09G"}
    assert {n: format_count(n) for n in texts} == texts


def test_a_long_name_has_a_line_to_itself() -> None:
    model = nn.Sequential()
    model.add_module("a_name_as_long_as_" * 4 + "this", nn.Linear(6, 10))
    model.add_module("last", nn.Linear(10, 3))
    summary = summarize(trace(model, torch.zeros(1, 6)))
    narrow, wide = format_summary(summary, 80).splitlines(), format_summary(summary).splitlines()
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

    report = trace(Normed(), torch.zeros(2, 3)).report()
    assert report.count("it is normalised over") == 1
    assert "6 layers, 24 outputs: layers.0.1 and" not in report
    assert "6 layers, 24 outputs: layers.0.3 and 5 more" in report
    assert "hint: no change helps: mean and variance" in report


def test_hints_are_for_reasons_that_the_tracer_gives() -> None:
    sources = [p for p in Path(earlycrop.__file__).parent.rglob("*.py") if p.name != "summary.py"]
    strings = {
        node.value
        for path in sources
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for reason in set(HELP) - {UNUSED}:
        assert any(string.startswith(reason) for string in strings), reason


# --- the command


def test_text_for_a_pair() -> None:
    code, out, err = run("tests.reportable:pair")
    assert code == 0
    assert out.splitlines()[0] == "tests.reportable:pair, called with float32 of 5 x 6"
    totals = "18 nodes can be removed. The network has 164 weights, 185 parameters and 820 MACs on the example."
    assert totals in " ".join(out.split())
    assert ["0", "Linear", "10/10", "70", "300", "73.0%", "76.8%"] in [line.split() for line in out.splitlines()]
    assert max(map(len, out.splitlines())) <= 80
    assert "a line that the network prints" in err
    steps = [line.partition(" s  ")[2] for line in err.splitlines() if " s  " in line]
    assert steps[:3] == ["importing", "building", "tracing"]
    assert steps[-1] == "summarizing"


def test_json_with_arguments_and_an_input(capfd: pytest.CaptureFixture[str]) -> None:
    more = ["--with", "hidden=12", "--with", "name=a word", "--input", "2,6", "--json"]
    assert __main__.main(["tests.reportable:mlp", *more]) == 0
    summary = json.loads(capfd.readouterr().out)
    weights = 6 * 12 + 12 * 8 + 24
    assert (summary["nodes"], summary["weights"], summary["macs"]) == (20, weights, 2 * weights)
    assert summary["rows"][0] == {
        "layer": "0", "kind": "Linear", "outputs": 12, "removable": 12, "parameters": 84, "macs": 144,
        "saves_parameters": 11 * (7 + 8), "saves_macs": 2 * 11 * (6 + 8),
    }  # fmt: skip
    assert summary["frozen"][0]["layers"] == ["4"]
    assert [cut["target"] for cut in summary["cuts"]] == [0.5, 0.9, None]


def test_tokens_and_several_inputs(capfd: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["tests.reportable:words", "--tokens", "2,7"]) == 0
    assert "called with int64 of 2 x 7" in capfd.readouterr().out
    assert __main__.main(["tests.reportable:Two", "--tokens", "2,7", "--input", "2,7,6"]) == 0
    assert "called with int64 of 2 x 7, float32 of 2 x 7 x 6" in capfd.readouterr().out


def test_attention_of_torch_says_why_no_head_goes(capfd: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["tests.reportable:attention"]) == 0
    out = capfd.readouterr().out
    assert "it insists on embed_dim, and can lose neither heads nor width" in " ".join(out.split())
    assert any(line.split()[-5:-2] == ["16/16", "144", "1.28k"] for line in out.splitlines())  # its feed-forward


def test_a_torchvision_model_by_name(tmp_path: Path) -> None:
    code, out, _ = run("torchvision:squeezenet1_1", "--json", path=tmp_path)
    summary = json.loads(out)
    published = load("torchvision.models").SqueezeNet1_1_Weights.IMAGENET1K_V1.meta
    assert code == 0
    assert summary["example"] == "float32 of 1 x 3 x 224 x 224"
    assert summary["parameters"] == published["num_params"]
    assert round(summary["macs"] / 1e9, 3) == published["_ops"]
    code, _, err = run("torchvision:resnet5O", path=tmp_path)
    assert code == 2
    assert "torchvision has no model 'resnet5O'" in sentence(err)


@pytest.mark.slow
def test_a_backbone_is_not_downloaded(tmp_path: Path) -> None:
    """A download of its weights would create this folder."""
    (tmp_path / "sitecustomize.py").write_text(f"import os\nos.environ['TORCH_HOME'] = {str(tmp_path / 'home')!r}\n")
    code, out, _ = run("torchvision:lraspp_mobilenet_v3_large", "--with", "num_classes=5", path=tmp_path)
    assert code == 0
    assert "the model returns it" in out
    assert not (tmp_path / "home").exists()


@pytest.mark.slow
def test_a_torchvision_network_by_callable(capfd: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["tests.reportable:swin", "--json"]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["parameters"] == 28_288_354
    assert {row["layer"]: row for row in summary["rows"]}["features.7.1.mlp.0"]["removable"] == 3072


# --- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet18"], "'resnet18' names no network: give torchvision:NAME or package.module:callable"),
        (["a:b", "--input", "1,x"], "'1,x' is not a shape: give positive integers, such as 1,3,224,224"),
        (["a:b", "--tokens", "0,3"], "'0,3' is not a shape"),
        (["a:b", "--with", "hidden"], "'hidden' is not KEY=VALUE"),
        (["a:b", "--seconds", "-1"], "'-1' is not a time: give a number of seconds above 0"),
        (["a:b", "--seconds", "inf"], "'inf' is not a time"),
        (["a:b", "--seconds", "nan"], "'nan' is not a time"),
        (["a:b", "--no-such-option"], "unrecognized arguments: --no-such-option"),
        ([], "the following arguments are required: NETWORK"),
        (["no_such_package.models:net"], "there is no module 'no_such_package': run the command where"),
        (["tests.broken_import:net"], "'import tests.broken_import' fails (ModuleNotFoundError: No module named 'no_"),
        (["tests.reportable:no_such"], "'tests.reportable' has no 'no_such'"),
        (["tests.reportable:NUMBER"], "'tests.reportable:NUMBER' is of type int: name a callable or a module"),
        (["tests.reportable:fails"], "cannot be built: called with (), it raises KeyError: 'no such key'. Set its"),
        (["tests.reportable:leaves"], "it raises SystemExit: goodbye"),
        (["tests.reportable:mlp", "--with", "widht=3"], "called with (widht=3), it raises TypeError"),
        (
            ["tests.reportable:no_module"],
            "'tests.reportable:no_module' returns a str: it must return a torch.nn.Module",
        ),
        (
            ["tests.reportable:lazy"],
            "'tests.reportable:lazy': '0.weight' has no shape yet: run the model on one batch first",
        ),
        (["tests.reportable:ready"], "give --input 1,3,224,224 for floats of that shape, --tokens 1,16 for integers"),
        (["tests.reportable:ready", "--input", "1,5"], "fails on the example"),
        (["tests.reportable:Leaves", "--input", "1,5"], "the model exits (SystemExit('goodbye'))"),
    ],
)
def test_a_wrong_input_is_one_sentence(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in sentence(err)


def test_a_wrong_network_ends_the_process_with_a_code() -> None:
    code, out, err = run("tests.reportable:script")
    assert (code, out) == (2, "")
    assert "'tests.reportable:script': the model is a script of torch.jit, and cannot be watched" in sentence(err)


def test_a_torchvision_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator does not exist')\n")
    code, _, err = run("torchvision:resnet18", path=tmp_path)
    assert code == 2
    assert "torchvision cannot be imported (RuntimeError: operator does not exist): install" in sentence(err)


# --- time


def test_time_up_while_importing(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(600)\n")
    begin = time.monotonic()
    code, out, err = run("endless:net", "--seconds", "1.5", path=tmp_path)
    assert 1.5 <= time.monotonic() - begin < 120
    assert (code, out) == (3, "")
    assert "stopped after 1.5 s, in the step 'importing': allow more with --seconds" in sentence(err)


@pytest.mark.slow
def test_time_up_while_running() -> None:
    code, out, err = run("tests.reportable:Waits", "--input", "1,6", "--seconds", "20")
    assert (code, out) == (3, "")
    assert "stopped after 20 s, in the step 'tracing': allow more with --seconds" in sentence(err)


def test_control_c() -> None:
    process = start("tests.reportable:hangs")
    assert process.stderr is not None
    assert any("building" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "stopped"
