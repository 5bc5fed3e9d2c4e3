"""A shrunk network is an ordinary one: torch.export and ONNX take it, and what they make agrees with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from earlycrop import shrink, trace
from earlycrop.utils.torchvision_compat import load_torchvision
from tests.networks import build
from tests.oracles import some_nodes

pytestmark = pytest.mark.usefixtures("without_type_checks")

NAMES = ["mlp", "conv-norm", "residual", "concatenation", "groups", "lstm", "gru", "heads", "tied", "fixed-size"]
EVERY_TIME = ("mlp", "residual", "lstm")
"""Those that are written as ONNX at every commit."""


def shrunk(name: str) -> tuple[nn.Module, Tensor]:
    """In evaluation mode, with more than a third of its nodes gone."""
    if name == "resnet18":
        model, example = load_torchvision("torchvision.models").resnet18(num_classes=10), torch.randn(1, 3, 64, 64)
    else:
        model, example = build(name, torch.float32)
    before = sum(p.numel() for p in model.parameters())
    graph = trace(model, example)
    shrink(model, graph, some_nodes(graph, 0.4, 1))
    assert sum(p.numel() for p in model.parameters()) < before
    return model.eval(), example


def apart(got: Any, expected: list[Tensor]) -> float:
    """The largest difference, relative to the largest output."""
    return max(
        float((torch.as_tensor(np.asarray(a)) - b).abs().max() / b.abs().max())
        for a, b in zip(got, expected, strict=True)
    )


@pytest.mark.parametrize("name", [*NAMES, "resnet18"])
@pytest.mark.filterwarnings("ignore:The tensor attributes self.rnn._flat_weights")  # of any LSTM, dense or small
def test_torch_export(name: str) -> None:
    model, x = shrunk(name)
    program = torch.export.export(model, (x,))
    with torch.no_grad():
        expected = tree_leaves(model(x))
        got = tree_leaves(program.module()(x))
    assert apart(got, expected) <= 1e-5
    shapes = {n: tuple(p.shape) for n, p in program.state_dict.items()}
    assert shapes == {n: tuple(p.shape) for n, p in model.state_dict().items()}


@pytest.mark.parametrize(
    "name", [n if n in EVERY_TIME else pytest.param(n, marks=pytest.mark.slow) for n in (*NAMES, "resnet18")]
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_onnx(name: str, tmp_path: Path) -> None:
    model, x = shrunk(name)
    file = tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = tree_leaves(model(x))
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert apart(got, expected) <= 1e-5
