"""The control tasks' network in numpy.

Acting goes one step at a time, and a call into torch costs more than the arithmetic of a few rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn


def _relu(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    np.maximum(x, 0, out=out)
    return out


ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {"Tanh": np.tanh, "ReLU": _relu}
Layer = tuple[np.ndarray, np.ndarray]
"""Weights (inputs, outputs) and biases (outputs,)."""


class Policy:
    """A network of ``trunk``, ``actor`` and ``critic`` in numpy, on the parameters' own memory where that is the CPU's.

    Make one anew for each rollout: pruning may replace the parameters, and on other devices these are copies.
    """

    def __init__(self, model: nn.Module) -> None:
        kinds = [(type(layer).__name__, layer) for layer in model.get_submodule("trunk").children()]
        self.layers = [_arrays(layer) if kind == "Linear" else ACTIVATIONS[kind] for kind, layer in kinds]
        self.actor, self.critic = _arrays(model.get_submodule("actor")), _arrays(model.get_submodule("critic"))

    def arranged(self, rows: int) -> Policy:
        """The same, with copies of the weights that OpenBLAS would rearrange in every product with ``rows`` rows.

        It does so to large ones. Where it takes them in whole blocks, of 16 outputs, a copy gives the same numbers.
        """
        policy = copy.copy(self)
        policy.layers = [
            (np.ascontiguousarray(layer[0]), layer[1])
            if isinstance(layer, tuple) and rows * len(layer[1]) > 1200 and len(layer[1]) % 16 == 0
            else layer
            for layer in self.layers
        ]
        return policy

    def features(self, x: np.ndarray, outs: list[np.ndarray] | None = None) -> np.ndarray:
        """The trunk's output; with ``outs``, an array for each activation's output, everything is left there."""
        free = iter(outs or [])
        for layer in self.layers:
            if isinstance(layer, tuple):
                x = np.matmul(x, layer[0], out=next(free, None))
                x += layer[1]
            else:
                layer(x, out=x)
        return x

    @property
    def widths(self) -> list[int]:
        """The trunk's layers' widths."""
        return [len(layer[1]) for layer in self.layers if isinstance(layer, tuple)]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """The actor's head on the trunk's output."""
        return _affine(features, self.actor)

    def values(self, features: np.ndarray) -> np.ndarray:
        """The critic's head on the trunk's output."""
        return _affine(features, self.critic)[..., 0]


def _arrays(layer: Any) -> Layer:
    weight, bias = (each.detach().cpu().numpy() for each in (layer.weight, layer.bias))
    return weight.T, bias


def _affine(x: np.ndarray, layer: Layer) -> np.ndarray:
    y: np.ndarray = x @ layer[0]
    y += layer[1]
    return y
