"""The command: its reports, its errors in a sentence, and its time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import earlycrop
from earlycrop.report import __main__
from earlycrop.utils.torchvision_compat import load_torchvision

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


@pytest.mark.usefixtures("without_type_checks")
def test_a_torchvision_model_by_name(capfd: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["torchvision:squeezenet1_1", "--json"]) == 0
    summary = json.loads(capfd.readouterr().out)
    published = load_torchvision("torchvision.models").SqueezeNet1_1_Weights.IMAGENET1K_V1.meta
    assert summary["example"] == "float32 of 1 x 3 x 224 x 224"
    assert summary["parameters"] == published["num_params"]
    assert round(summary["macs"] / 1e9, 3) == published["_ops"]
    assert __main__.main(["torchvision:resnet5O"]) == 2
    assert "torchvision has no model 'resnet5O'" in sentence(capfd.readouterr().err)


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
    assert "'tests.reportable:script': the model is a torch.jit script, which cannot be traced" in sentence(err)


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
