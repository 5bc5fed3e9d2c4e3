"""Wrong command lines, one line each that begins with ``error:``, and exit code 2; nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from earlycrop.report.__main__ import main as report
from leaderboards.__main__ import main as leaderboards
from tasks.__main__ import main as tasks
from tasks.runner import command_line

pytestmark = pytest.mark.usefixtures("without_type_checks")
TASKS = {
    "an unknown task": (["cartpol"], "there is no task 'cartpol', did you mean 'cartpole'?"),
    "an option as task": (["--method"], "there is no task '--method': take one of acrobot"),
    "nothing as task": ([""], "there is no task '': take one of acrobot"),
    "a negative seed": (["digits", "--seed", "-1"], "seed must be 0 or more, not -1"),
    "a late epoch to keep": (["digits", "--keep", "99"], "--keep takes epochs from 1 to 20, not 99"),
    "twice the early batches": (["digits", "--early-batches", "2"], "early_batches must be a share"),
    "twice the rewind": (["digits", "--method", "ltr", "--rewind", "2"], "rewind must be a share of the epochs"),
    "a branch without an epoch": (["digits", "--branch-from", "x"], "the epoch to branch off at: give it as --trigger"),
    "a floor without its amount": (["digits", "--floors", "0"], "error parsing --floors"),
    "no such GPU": (["digits", "--device", "cuda:99"], "there is no device 'cuda:99' here"),
    "an unknown schedule": (["digits", "--schedule", "cosine"], "invalid choice 'cosine' for argument '--schedule'"),
    "an option of another task": (["cartpole", "--data", "x"], "unrecognized options: --data"),
    "a folder of data that is not there": (
        ["nyu", "--data", "./nowhere"],
        "there is no folder ./nowhere: --data takes one",
    ),
    "a path that is not there": (
        ["ptb", "--data", "./nowhere"],
        "there is no folder ./nowhere: --data takes a data set",
    ),
    "an unknown task of GLUE": (["glue", "--task-name", "mprc"], "invalid choice 'mprc' for argument '--task-name'"),
    "an unknown option": (["digits", "--sparsty", "0.9"], "did you mean --sparsity"),
    "a word": (["digits", "dense"], "unrecognized options: dense"),
    "an unknown method": (["digits", "--method", "earlycrops"], "did you mean 'earlycrop-s'"),
    "a method in capitals": (["digits", "--method", "SNIP"], "there is no method 'SNIP'"),
    "an unknown preset": (["digits", "--preset", "papr"], "there is no preset 'papr': take one of default"),
    "per cent": (["digits", "--sparsity", "95"], "--sparsity must be above 0 and below 1, and is 95"),
    "a sparsity in words": (["digits", "--sparsity", "most"], "could not convert string to float: 'most'"),
    "no value": (["digits", "--sparsity"], "missing value for argument '--sparsity'"),
    "an unknown measure": (["digits", "--of", "flops"], "invalid choice 'flops' for argument '--of'"),
    "no epochs": (["digits", "--epochs", "0"], "epochs must be 1 or more, not 0"),
    "half an epoch": (["digits", "--epochs", "2.5"], "invalid literal for int()"),
    "too few epochs": (["digits", "--epochs", "2"], "early pruning needs at least 3 epochs"),
    "no rounds": (["digits", "--rounds", "0"], "rounds must be at least 1"),
    "a negative batch": (["digits", "--batch", "-1"], "batch must be 1 or more, not -1"),
    "two widths": (["digits", "--widths", "8", "8"], "missing value for argument '--widths'"),
    "a width of 0": (["digits", "--widths", "8", "8", "0"], "widths must be 1 or more, not (8, 8, 0)"),
    "an unknown trigger": (["digits", "--trigger", "lazy"], "there is no trigger 'lazy'"),
    "a late trigger": (["digits", "--trigger", "99"], "the trigger may wait until epoch 99"),
    "an unknown criterion": (["digits", "--criterion", "corp"], "corp"),
    "an unknown gate": (["digits", "--gate", "columsn"], "invalid choice 'columsn'"),
    "an unknown layer": (["digits", "--exclude", "fc9"], "no layer with a weight matrix matches 'fc9'"),
    "a floor above 1": (["digits", "--floors", "0", "1.5"], "floors['0'] is 1.5"),
    "a multiple of 0": (["digits", "--multiple", "0"], "multiple must be at least 1"),
    "single weights in nodes": (["digits", "--method", "snip", "--of", "nodes"], "take a structured method"),
    "an unknown device": (["digits", "--device", "gpu"], "there is no device 'gpu' here"),
    "an unknown country": (["digits", "--country", "Germany"], "Germany"),
    "no run to branch from": (["digits", "--trigger", "3", "--branch-from", "nowhere"], "nowhere"),
    "nothing to draw": (["digits", "--record"], "digits has nothing to draw: leave out --record"),
}
REPORTS = {
    "no network": ([], "the following arguments are required: NETWORK"),
    "a word": (["resnet50"], "'resnet50' names no network: give torchvision:NAME or package.module:callable"),
    "an unknown network": (["torchvision:resnet51"], "resnet51"),
    "no such module": (["nowhere:make"], "nowhere"),
    "no name": (["torchvision:"], "'torchvision:' names no network"),
    "a number": (["math:pi"], "'math:pi' is of type float: name a callable or a module"),
    "a class without its arguments": (["torch.nn:Linear"], "Set its arguments with --with KEY=VALUE"),
    "a size of 0": (["torch.nn:ReLU", "--input", "3,0"], "'3,0' is not a shape"),
    "a model without parameters": (["torch.nn:ReLU", "--input", "3"], "the model has no parameters"),
    "no such callable": (["math:sqr"], "'math' has no 'sqr': did you mean 'sqrt'?"),
    "no shape": (["torch.nn:ReLU", "--input", "3x4"], "'3x4' is not a shape: give positive integers"),
    "no keyword": (["torch.nn:ReLU", "--with", "inplace"], "'inplace' is not KEY=VALUE"),
    "no time": (["torch.nn:ReLU", "--seconds", "0"], "'0' is not a time: give a number of seconds above 0"),
}
LEADERBOARDS = {
    "an unknown command": (["shwo"], "there is no command 'shwo', did you mean 'show'?"),
    "an unknown study": (["show", "tabel1"], "there is no study 'tabel1', did you mean 'table1'?"),
    "a price of 0": (["show", "--price", "0"], "--price must be a number above 0, and is 0"),
    "no study": (["sweep"], "missing from python -m leaderboards sweep: STUDY"),
    "an unknown run": (["trigger", "nothing"], "There is no run nothing in"),
    "a price in words": (["show", "--price", "x"], "could not convert string to float: 'x'"),
    "no seeds": (["sweep", "table1", "--seeds", "0"], "--seeds must be at least 1, and is 0"),
    "a study without its data": (["sweep", "table1", "--data", "nowhere"], "There is no folder nowhere"),
    "a task as command": (["digits"], "there is no command 'digits': take one of collect"),
    "no runs": (["collect", "--runs", "nowhere"], "No finished runs found in nowhere"),
    "no leaderboards": (["check", "--out", "nowhere"], "No leaderboards found in nowhere"),
    "data without a study": (["show", "--data", "data"], "name the study"),
}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1, line
    return line


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "PATIENCE", 1000.0)  # on a busy machine a wait is explained in a line more


@pytest.mark.parametrize("name", TASKS)
def test_a_wrong_command_of_a_task(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, fragment = TASKS[name]
    with pytest.raises(SystemExit) as stop:
        tasks(arguments)
    assert stop.value.code == 2
    assert fragment in said(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", REPORTS)
def test_a_wrong_command_of_the_report(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, fragment = REPORTS[name]
    assert report(arguments) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert fragment in errors[0]


@pytest.mark.parametrize("name", LEADERBOARDS)
def test_a_wrong_command_of_the_leaderboards(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, fragment = LEADERBOARDS[name]
    try:
        code = leaderboards(arguments)
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert fragment in said(capsys)
