"""Noise in the place of what a model is called with, so that a proof does not stand on one example alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from earlycrop.utils.modules import is_functorch_tensor


class Noise:
    """What stands in the place of the floating tensors that a model is called with: the same in every run.

    Normal, with the mean, the spread and the range of the tensor that it replaces; where that is constant or not
    finite, it stays. ``drawn`` while a run is watched; put in place by later ones.
    """

    def __init__(self) -> None:
        self.drawn: dict[tuple[int, int], Tensor] = {}
        """By call of the model, and place among what it was called with."""
        self.unlike = False
        """Whether a later run called the model with tensors of another shape."""
        self._generator = torch.Generator().manual_seed(0)

    def draw(self, number: int, inputs: Any) -> None:
        """Look at what the model is called with, for the ``number``-th time."""
        drawn: dict[int, Tensor] = {}
        for i, t in enumerate(tree_flatten(inputs)[0]):
            if _plain(t) and t.is_floating_point() and t.numel():
                if id(t) not in drawn:
                    drawn[id(t)] = self._like(t)
                if bool((drawn[id(t)] != drawn[id(t)].flatten()[0]).any()):
                    self.drawn[number, i] = drawn[id(t)]

    def put(self, number: int, inputs: Any) -> Any:
        """The same with noise in it."""
        leaves, spec = tree_flatten(inputs)
        for i, t in enumerate(leaves):
            noise = self.drawn.get((number, i))
            if noise is not None and isinstance(t, Tensor) and t.shape == noise.shape:
                leaves[i] = noise.to(t)
            elif noise is not None:
                self.unlike = True
        return tree_unflatten(leaves, spec)

    def _like(self, t: Tensor) -> Tensor:
        values = t.detach().to(torch.promote_types(t.dtype, torch.float32))
        noise = torch.randn(t.shape, generator=self._generator).to(values)
        low, high = values.aminmax()
        noise = (values.mean() + values.std(correction=0) * noise).clamp(low, high).to(t.dtype)
        return noise if bool(noise.isfinite().all()) else torch.zeros_like(noise)


def _plain(t: object) -> bool:
    if not isinstance(t, Tensor) or type(t) not in (Tensor, nn.Parameter):
        return False
    return t.layout == torch.strided and not t.is_nested and not is_functorch_tensor(t)
