"""Layers under torch's parametrizations: which of them are cut, masked or left uncut, and the reason."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.nn.utils.parametrize import register_parametrization

from earlycrop import Masks, prune, shrink, trace
from earlycrop.report import __main__
from tests.toy import loss, train_epoch, vectors

data = partial(vectors, 2, size=5, classes=2, seed=1)

TRIVIAL = [False, True]
MAPS = ["householder", "matrix_exp", "cayley"]


def network(trivial: bool, orthogonal_map: str = "householder") -> nn.Module:
    torch.manual_seed(0)
    normal = orthogonal(nn.Linear(6, 9), orthogonal_map=orthogonal_map, use_trivialization=trivial)
    return nn.Sequential(normal, nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 2))


@pytest.mark.parametrize("orthogonal_map", MAPS)
@pytest.mark.parametrize("trivial", TRIVIAL)
def test_an_orthogonal_matrix_stays_whole_with_its_reason_and_others_are_cut(
    trivial: bool, orthogonal_map: str
) -> None:
    model = network(trivial, orthogonal_map)
    graph = trace(model, data()[0][0])
    assert "this operation is not understood (tril in '0.parametrizations.weight.0')" in graph.report()
    assert not any(name.endswith("original") for g in graph.groups for name, _ in g)
    assert 8 in {len(ids) for ids in graph.groups.values()}
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    event = prune(model, loss, data(), "crop", 0.3, optimizer=optimizer)
    assert event.achieved >= 0.3
    assert model[0].parametrizations.weight.original.shape == (9, 6)  # type: ignore[index, union-attr]
    train_epoch(model, optimizer, data())


def test_rows_that_a_matrix_picks_of_an_orthogonal_one_are_cut() -> None:
    """Those of the base that the first, trivial, form is multiplied with: a norm or an angle is no one row's."""
    model = network(True)
    graph = trace(model, data()[0][0])
    group = next(ids for g, ids in graph.groups.items() if ("2.weight", 1) in g)
    shrink(model, graph, group[:4])
    assert (model[0].out_features, model[2].in_features) == (5, 5)


@pytest.mark.parametrize("trivial", TRIVIAL)
def test_masks_leave_a_matrix_alone_whose_zeros_are_not_zeros_of_the_weight(trivial: bool) -> None:
    model = network(trivial)
    name = "0.parametrizations.weight.original"
    before = dict(model.named_parameters())[name].detach().clone()
    event = prune(model, loss, data(), "magnitude", 0.4, structured=False)
    assert event.masks is not None
    assert set(event.masks.removed) == {"2.weight", "4.weight"}
    assert torch.equal(dict(model.named_parameters())[name], before)
    assert event.left == event.dense - sum(int(gone.sum()) for gone in event.masks.removed.values())
    assert event.achieved >= 0.4
    reason = "was not pruned: its parametrization does not turn a zero in it into a zero of the weight"
    assert event.notes[0] == f"'{name}' {reason}"
    assert name not in Masks.of_zeros(model).removed


def test_matrices_under_a_norm_hold_zeros() -> None:
    for normed in (weight_norm, spectral_norm):
        model = nn.Sequential(normed(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 2))
        event = prune(model, loss, data(), "random", 0.2, structured=False)
        assert not any("original1" in note or "original'" in note for note in event.notes)
        assert event.masks is not None
        [(name, gone)] = [(n, g) for n, g in event.masks.removed.items() if g.shape == (8, 6)]
        assert name.startswith("0.parametrizations.weight.original")
        assert bool(gone.any())


class Nine(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        if len(weight) != 9:
            raise ValueError("nine rows")
        return 2 * weight


def test_a_parametrization_that_does_not_run_on_less_freezes_what_it_makes() -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 2))
    register_parametrization(model[0], "weight", Nine())
    graph = trace(model, data()[0][0])
    assert {len(ids) for ids in graph.groups.values()} == {8}
    assert "the parametrization of its weight fails: nine rows" in graph.report()


def test_a_report_of_an_orthogonal_layer_by_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "normal.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from torch.nn.utils.parametrizations import orthogonal\n"
        "def made():\n"
        "    return nn.Sequential(orthogonal(nn.Linear(8, 32)), nn.ReLU(), nn.Linear(32, 4)), torch.randn(2, 8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert __main__.main(["normal:made"]) == 0
    assert "this operation is not understood" in capfd.readouterr().out


@pytest.mark.parametrize("normed", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.parametrize("criterion", ["magnitude", "snip", "crop"])
def test_no_row_that_is_divided_by_its_norm_is_zero(normed: Callable[..., nn.Module], criterion: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*weight_norm.* is deprecated", FutureWarning)
        model = nn.Sequential(
            normed(nn.Linear(6, 32)), nn.ReLU(), normed(nn.Linear(32, 32)), nn.ReLU(), nn.Linear(32, 3)
        )
    optimizer, batches = torch.optim.AdamW(model.parameters(), 0.01), vectors()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "hardly anything is left")
        event = prune(model, loss, batches, criterion, 0.9, structured=False, rounds=3, optimizer=optimizer)
    assert event.achieved >= 0.9
    for _ in range(3):
        optimizer.zero_grad()
        loss(model, batches[0]).backward()
        optimizer.step()
    assert bool(loss(model, batches[0]).isfinite())
    assert all(bool(p.isfinite().all()) for p in model.parameters())
