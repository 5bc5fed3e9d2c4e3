"""Noise that replaces a model's inputs, so that a certificate does not rest on one example alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from earlycrop.utils.modules import is_functorch_tensor


class Noise:
    """Normal noise for the floating tensors that a model is called with, the same in every run.

    It has the mean, the standard deviation and the range of the tensor that it replaces. A tensor that is constant or
    not finite is not replaced. ``record`` makes the noise in one run, ``replace`` uses it in later ones.

    Attributes:
        samples: The noise by (number of the call, position among the inputs of the call).
        shape_changed: Whether a later run called the model with a tensor of another shape.
    """

    def __init__(self) -> None:
        self.samples: dict[tuple[int, int], Tensor] = {}
        self.shape_changed = False
        self._generator = torch.Generator("cpu").manual_seed(0)

    def record(self, call: int, inputs: Any) -> Any:
        """Make noise like the inputs of the model's ``call``-th call, and return the inputs unchanged."""
        samples: dict[int, Tensor] = {}
        for i, t in enumerate(tree_flatten(inputs)[0]):
            if _is_plain(t) and t.is_floating_point() and t.numel():
                if id(t) not in samples:
                    samples[id(t)] = self._sample_like(t)
                if bool((samples[id(t)] != samples[id(t)].flatten()[0]).any()):
                    self.samples[call, i] = samples[id(t)]
        return inputs

    def replace(self, call: int, inputs: Any) -> Any:
        """Return the inputs of the model's ``call``-th call with noise in place of the recorded tensors."""
        leaves, spec = tree_flatten(inputs)
        for i, t in enumerate(leaves):
            noise = self.samples.get((call, i))
            if noise is not None and isinstance(t, Tensor) and t.shape == noise.shape:
                leaves[i] = noise.to(t)
            elif noise is not None:
                self.shape_changed = True
        return tree_unflatten(leaves, spec)

    def _sample_like(self, t: Tensor) -> Tensor:
        values = t.detach().to(torch.promote_types(t.dtype, torch.float32))
        noise = torch.randn(t.shape, generator=self._generator, device="cpu").to(values)
        low, high = values.aminmax()
        noise = (values.mean() + values.std(correction=0) * noise).clamp(low, high).to(t.dtype)
        return noise if bool(noise.isfinite().all()) else torch.zeros_like(noise)


def _is_plain(t: Any) -> bool:
    is_strided = type(t) in (Tensor, nn.Parameter) and t.layout == torch.strided
    return is_strided and not t.is_nested and not is_functorch_tensor(t)
