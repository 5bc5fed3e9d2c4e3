"""Files and checkpoints that cannot be loaded, a sentence each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import earlycrop
from earlycrop import Pruner, load, load_state, prune, save, save_state
from tests.toy import loss, mlp, sgd, vectors
from tests.wrong_inputs.sentences import require_sentence

pytestmark = pytest.mark.usefixtures("without_type_checks")


def saved(folder: Path) -> Path:
    """A pruned model in a folder."""
    model = mlp()
    prune(model, loss, vectors(1), sparsity=0.5)
    save(model, folder)
    return folder


def broken(folder: Path) -> Path:
    path = saved(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    return folder


def foreign(folder: Path) -> Path:
    """A file of safetensors that this library has not written."""
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, folder / "model.safetensors")
    return folder


def state_of(folder: Path, method: str = "crop-s", trigger: Any = None) -> dict[str, Any]:
    model = mlp()
    pruner = Pruner(model, sgd(model), loss, method, 0.5, epochs=6, trigger=trigger)
    state = pruner.state_dict()
    pruner.close()
    return state


def pruner_of(method: str = "crop-s", model: nn.Module | None = None) -> Pruner:
    model = model or mlp()
    return Pruner(model, sgd(model), loss, method, 0.5, epochs=6)


def text(folder: Path) -> Path:
    path = folder / "state.safetensors"
    path.write_text("no safetensors")
    return path


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda f: load(f / "nowhere", mlp()), "there is no file"),
    "an empty folder": (lambda f: load(f, mlp()), "there is no file"),
    "a file that was cut off": (lambda f: load(broken(f), mlp()), "it was cut short or changed; take an older copy"),
    "a file of something else": (lambda f: load(foreign(f), mlp()), "not written by earlycrop"),
    "a model with other classes": (
        lambda f: load(saved(f), mlp(6, 16, 16, 5)),
        "'4.bias' is (3,) in the file and (5,) in the model: give a fresh model of the same kind",
    ),
    "a model with more layers": (
        lambda f: load(saved(f), mlp(6, 16, 16, 16, 3)),
        "is of another kind of model: the file has no '6.bias'",
    ),
    "a smaller model": (
        lambda f: load(saved(f), mlp(6, 4, 4, 3)),
        "and (4,) in the model: give a fresh model of the same kind",
    ),
    "another kind of model": (
        lambda f: load(saved(f), nn.Conv2d(3, 8, 3)),
        "is of another kind of model: the model has no '0'",
    ),
    "a state without a file": (lambda f: load_state(f / "state.safetensors"), "there is no file"),
    "a state that is text": (lambda f: load_state(text(f)), "it was cut short or changed; take an older copy"),
    "a model as state": (lambda f: load_state(saved(f) / "model.safetensors"), "holds a model and no training state"),
    "a state with a function": (
        lambda f: save_state({"f": print}, f / "s.safetensors"),
        "a training state cannot hold a builtin_function_or_method: make it tensors, numbers or strings",
    ),
    "a state with a set": (
        lambda f: save_state({"s": {1, 2}}, f / "s.safetensors"),
        "a training state cannot hold a set: make it tensors, numbers or strings",
    ),
    "a state with numbers as keys": (
        lambda f: save_state({(1, 2): 3}, f / "s.safetensors"),
        "a training state cannot have (1, 2) as a key",
    ),
    "a number as model": (lambda f: save(3, f), "the model cannot be 3: give a torch.nn.Module"),
    "a number to allocate": (lambda f: earlycrop.materialise(3), "the model cannot be 3: give a torch.nn.Module"),
    "no folder to save to": (lambda f: save(mlp(), None), "the folder cannot be None: call save(model, folder)"),
    "a model and then a folder": (
        lambda f: load(mlp(), f),
        "the folder cannot be a Sequential: call load(folder, model",
    ),
    "no model to load into": (lambda f: load(saved(f), None), "the model cannot be None: give a fresh one"),
    "a model of another type": (lambda f: load(saved(f), mlp().double()), "such as by model.to(torch.float32)"),
    "a file as folder": (lambda f: save(mlp(), text(f)), "state.safetensors is a file, and"),
    "a folder as state": (lambda f: load_state(f), "is no file"),
    "a folder to write a state to": (lambda f: save_state({"a": 1}, f), "is a folder: give the name of a file in it"),
    "a model in a state": (lambda f: save_state(mlp(), f / "s"), "a training state cannot hold a Sequential"),
    "no state": (lambda f: pruner_of().load_state_dict(None), "the state cannot be None: give what state_dict()"),
    "the state of an optimizer": (
        lambda f: pruner_of().load_state_dict(sgd(mlp()).state_dict()),
        "this is not the state of a pruner, as it has no 'epoch'",
    ),
    "an empty state to branch from": (lambda f: pruner_of().branch_off({}), "this is not the state of a pruner"),
    "a lazy model": (lambda f: save(nn.LazyLinear(3), f), "has no shape yet"),
    "a state of another method": (
        lambda f: pruner_of("snap").load_state_dict(state_of(f)),
        "the state is of a pruner with the method 'crop-s'",
    ),
    "a state of another trigger": (
        lambda f: pruner_of("earlycrop-s").load_state_dict(state_of(f, "earlycrop-s", 2)),
        "this one has the method 'earlycrop-s' and the trigger LazyRegime",
    ),
    "a state of another model": (
        lambda f: pruner_of(model=mlp(6, 8, 8, 3)).load_state_dict(state_of(f)),
        "the state is of another model: it has a '0.weight' of shape (16, 6)",
    ),
    "a trunk that prunes by a trigger": (
        lambda f: pruner_of("earlycrop-s").branch_off(state_of(f, "dense")),
        "give the trigger as a number",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file(name: str, tmp_path: Path) -> None:
    call, fragment = FILES[name]
    require_sentence(lambda: call(tmp_path), fragment)


def test_there_are_enough_wrong_inputs() -> None:
    from tests.wrong_inputs import test_wrong_arguments as arguments
    from tests.wrong_inputs import test_wrong_commands as commands

    tables = [getattr(module, name) for module in (arguments, commands) for name in dir(module) if name.isupper()]
    assert sum(len(table) for table in [*tables, FILES] if isinstance(table, dict)) >= 230
    assert earlycrop.EarlyCropError.__doc__
