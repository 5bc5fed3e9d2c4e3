"""Files that say what no cut could have made: each is refused, and the model stays as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import earlycrop
from earlycrop import SavingError, shrink, trace
from tests.toy import Net

pytestmark = pytest.mark.usefixtures("without_type_checks")
Tensors = dict[str, Tensor]
Change = Callable[[Tensors, Any], object]


class Heads(nn.Module):
    """A module with sizes of its own, one of which a cut changes, and with settings that none changes."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.heads, self.stride, self.eps = 4, 2, 1e-5

    def forward(self, x: Tensor) -> Tensor:
        q, k = (f(x).view(len(x), self.heads, 2) for f in (self.query, self.key))
        return (q * k).sum(-1)


def network() -> nn.Module:
    torch.manual_seed(0)
    front = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, groups=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8),
    )  # fmt: skip
    return Net(lambda m, x: m.last(m.heads(m.front(x))), front=front, heads=Heads(), last=nn.Linear(4, 3))


def recurrent() -> nn.Module:
    torch.manual_seed(0)
    return Net(lambda m, x: m.last(m.lstm(x)[0]), lstm=nn.LSTM(4, 8, batch_first=True), last=nn.Linear(8, 2))


def saved(folder: Path, make: Callable[[], nn.Module] = network) -> Path:
    model = make()
    graph = trace(model, torch.randn(2, 3, 9, 9) if make is network else torch.randn(2, 5, 4))
    shrink(model, graph, [0, graph.count - 1])
    return earlycrop.save(model, folder)


def contents(file: Path) -> tuple[Tensors, Any]:
    with safe_open(file, "pt") as opened:
        (header,) = opened.metadata().values()
        return {name: opened.get_tensor(name) for name in opened.keys()}, json.loads(header)  # noqa: SIM118


def rewrite(file: Path, change: Change) -> None:
    """Change a file as somebody would who leaves out the checksum, which a file may lack."""
    tensors, header = contents(file)
    header.pop("sha256", None)
    change(tensors, header)
    save_file({name: t.contiguous() for name, t in tensors.items()}, file, {"earlycrop 1": json.dumps(header)})


def set_size(path: str, attribute: str, size: Any) -> Change:
    return lambda tensors, header: header["sizes"].setdefault(path, {}).__setitem__(attribute, size)


def set_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Change:
    return lambda tensors, header: tensors.__setitem__(name, change(tensors[name]))


def both(*changes: Change) -> Change:
    return lambda tensors, header: [change(tensors, header) for change in changes]


CHANGES: dict[str, tuple[Change, str]] = {
    "a namespace": (set_size("heads", "__dict__", {}), r"sets 'heads.__dict__', which no cut changes"),
    "a method": (set_size("", "forward", 3), "sets 'forward', which no cut changes"),
    "a stride": (set_size("front.0", "stride", [1, 1]), "sets 'front.0.stride', which no cut changes"),
    "a user's stride": (set_size("heads", "stride", 1), "sets 'heads.stride' to 1, which is 2 in the model"),
    "eps of torch": (set_size("front.1", "eps", 1), "sets 'front.1.eps', which no cut changes"),
    "a user's eps": (set_size("heads", "eps", 1), "sets 'heads.eps', which no cut changes"),
    "a new attribute": (set_size("heads", "new", 1), "sets 'heads.new', which no cut changes"),
    "a word": (set_size("front.0", "out_channels", "abc"), "sets 'front.0.out_channels' to 'abc'"),
    "below 0": (set_size("front.0", "out_channels", -5), "sets 'front.0.out_channels' to -5"),
    "a truth": (set_size("front.0", "out_channels", True), "sets 'front.0.out_channels' to True"),
    "too large": (set_size("front.0", "out_channels", 99), "sets 'front.0.out_channels' to 99"),
    "not the tensor's": (set_size("front.0", "out_channels", 5), r"out_channels' is 5 in its header, and 7 by its ten"),
    "groups": (set_size("front.3", "groups", 4), r"'front.3.in_channels' is 7 in its header, and 4 by its tensors"),
    "no heads": (set_size("heads", "heads", 0), "sets 'heads.heads' to 0, which is 4 in the model"),
    "another number of heads": (set_size("heads", "heads", 2), "sets 'heads.heads' to 2, which is 4 in the model"),
    "sizes left out": (lambda tensors, header: header["sizes"].pop("front.0"), r"out_channels' is 8 in its header"),
    "sizes of no form": (lambda tensors, header: header.update(sizes=[1]), "the sizes in its header are no table"),
    "entries of no form": (lambda tensors, header: header.update(sizes={"": 3}), "the sizes .* no table"),
    "no sizes": (lambda tensors, header: header.pop("sizes"), "its header has no sizes"),
    "dense of no form": (lambda tensors, header: header.update(dense={"last.bias": "x"}), "the dense shapes .* no"),
    "dense of words": (lambda tensors, header: header.update(dense={"last.bias": ["x"]}), "the dense shape of"),
    "half": (set_tensor("last.weight", Tensor.half), r"'last.weight' is torch.float16 in the file and torch.fl"),
    "integers": (set_tensor("last.weight", Tensor.long), r"'last.weight' is torch.int64 in the file"),
    "a short bias": (set_tensor("front.0.bias", lambda t: t[:4]), r"'front.\d.\w*' has \d entries, and others that b"),
    "short statistics": (set_tensor("front.1.running_var", lambda t: t[:4]), "'front.1.running_var' has 4 entries"),
    "nothing": (set_tensor("front.0.bias", lambda t: t[:0]), r"'front.0.bias' is \(0,\) in the file"),
    "not a number": (set_tensor("last.bias", lambda t: t * torch.nan), "'last.bias' holds NaN"),
}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return saved(tmp_path_factory.mktemp("saved")).read_bytes()


def require_refused(folder: Path, model: nn.Module, message: str) -> None:
    before = {path: deepcopy(vars(m)) for path, m in model.named_modules()}
    with pytest.raises(SavingError, match=message):
        earlycrop.load(folder, model)
    for path, m in model.named_modules():
        for name, value in before[path].items():
            if name not in ("_parameters", "_buffers", "_modules", "_flat_weights"):
                assert vars(m)[name] == value, (path, name)
        for kind in ("_parameters", "_buffers"):
            assert all(t is None or torch.equal(t, before[path][kind][name]) for name, t in vars(m)[kind].items())


@pytest.mark.parametrize("name", list(CHANGES))
def test_what_no_cut_could_have_made_is_refused(name: str, file: bytes, tmp_path: Path) -> None:
    change, message = CHANGES[name]
    (tmp_path / "model.safetensors").write_bytes(file)
    rewrite(tmp_path / "model.safetensors", change)
    require_refused(tmp_path, network(), message)


def test_an_lstm_s_tensors_belong_together(tmp_path: Path) -> None:
    file = saved(tmp_path, recurrent)
    assert contents(file)[1]["sizes"]["lstm"]["hidden_size"] < 8
    earlycrop.load(tmp_path, recurrent())
    rewrite(file, set_tensor("lstm.bias_hh_l0", lambda t: t[:-4]))
    require_refused(tmp_path, recurrent(), r"'lstm.bias_\w*_l0' has \d+ entries, and others that belong to it \d+")


def test_what_a_cut_has_made_is_loaded(file: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(file)
    x = torch.randn(2, 3, 9, 9)
    first = earlycrop.load(tmp_path, network())
    rewrite(tmp_path / "model.safetensors", lambda tensors, header: None)
    second = earlycrop.load(tmp_path, network())
    torch.testing.assert_close(first(x), second(x), rtol=0, atol=0)
    assert (first.heads.heads, first.heads.stride, first.front[3].groups) == (3, 2, 7)


def test_a_flipped_bit_is_told(file: bytes, tmp_path: Path) -> None:
    """In any of the tensors' bytes, and in the sizes."""
    end = 8 + int.from_bytes(file[:8], "little")
    places = [*range(end, len(file), 97), len(file) - 1, file.index(b"out_channels")]
    for place in places:
        changed = bytearray(file)
        changed[place] ^= 1
        (tmp_path / "model.safetensors").write_bytes(changed)
        require_refused(tmp_path, network(), "is broken|is of another kind|cannot be loaded")


def test_a_state_is_no_model_and_a_folder_no_file(tmp_path: Path) -> None:
    state = earlycrop.save_state({"step": 1}, tmp_path / "model.safetensors")
    require_refused(tmp_path, network(), r"holds a training state and no model: earlycrop.load_state reads it")
    state.unlink()
    state.mkdir()
    require_refused(tmp_path, network(), "model.safetensors is no file")
    with pytest.raises(SavingError, match="is no file"):
        earlycrop.load_state(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    require_refused(tmp_path, network(), "model.safetensors is no file")


@pytest.mark.parametrize(
    "state",
    [{"tensor": "9"}, {"tensor": ["a"]}, {"dict": 3}, {"dict": [[1]]}, {"dict": [[[1], 2]]}, {"other": 1}],
)
def test_a_state_that_refers_to_what_is_not_there_is_broken(state: Any, tmp_path: Path) -> None:
    save_file({"0": torch.zeros(1)}, tmp_path / "state", {"earlycrop 1": json.dumps({"state": state, "complex": []})})
    with pytest.raises(SavingError, match="state is broken"):
        earlycrop.load_state(tmp_path / "state")


def test_a_nest_that_is_too_deep_is_broken(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    for header in (f'{{"state": {deep}}}', deep):
        save_file({"0": torch.zeros(1)}, tmp_path / "model.safetensors", {"earlycrop 1": header})
        with pytest.raises(SavingError, match="is broken"):
            earlycrop.load_state(tmp_path / "model.safetensors")
        require_refused(tmp_path, network(), "is broken")


def test_two_threads_may_save_to_one_folder(tmp_path: Path) -> None:
    models = [network(), network()]
    for t in models[1].parameters():
        t.data = t.data + 1
    errors: list[Exception] = []

    def save(model: nn.Module) -> None:
        try:
            for _ in range(50):
                earlycrop.save(model, tmp_path)
        except Exception as error:
            errors.append(error)

    threads = [Thread(target=save, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = earlycrop.load(tmp_path, network())
    assert any(torch.equal(loaded.last.bias, model.last.bias) for model in models)
