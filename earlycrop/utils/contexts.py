"""Context managers that change a module or a process for a while, and restore it."""

from __future__ import annotations

import random
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from earlycrop.utils.modules import NORMS, assign_tensor, list_modules, tensor_owners, tensors_by_name

_CONTAINERS = (list, dict, OrderedDict, set)


@contextmanager
def replace_tensors(module: nn.Module, new: Mapping[str, Tensor]) -> Iterator[None]:
    """For a while, hold ``new[name]`` in place of the parameter or buffer ``name``, wherever it is tied to."""
    old = tensors_by_name(module)
    where = tensor_owners(module)
    spots = {name: where[id(old[name])] for name in new}
    with ExitStack() as each:
        for name, tensor in new.items():
            each.callback(assign_tensor, spots[name], old[name])
            assign_tensor(spots[name], tensor)
        yield


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Out of inference mode, where that is on: a tensor that is made in it can never be trained."""
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):  # leaving the mode alone enables gradients
        yield


@contextmanager
def preserve_python_random_states() -> Iterator[None]:
    """Restore the random states of numpy and Python on the way out."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[None]:
    """Restore training modes, buffers and the random states of torch, numpy and Python on the way out."""
    with preserve_python_random_states():
        modes = [(m, m.training) for m in module.modules()]
        # a forward may write into a buffer or put another one in its place: keep the object and its values
        buffers = [
            (m, name, b, None if b is None else b.detach().clone())
            for m in module.modules()
            for name, b in m._buffers.items()
        ]
        devices = sorted({t.device.index or 0 for t in tensors_by_name(module).values() if t.device.type == "cuda"})
        try:
            with torch.random.fork_rng(devices=devices):
                yield
        finally:
            for m, training in modes:
                m.training = training
            with torch.no_grad():
                for owner, name, buffer, before in buffers:
                    owner._buffers[name] = buffer
                    # only what has changed: an expanded buffer cannot be written to
                    if (
                        buffer is not None
                        and before is not None
                        and not (buffer.is_meta or torch.equal(buffer, before))
                    ):
                        buffer.copy_(before)


@contextmanager
def preserve_attributes(module: nn.Module) -> Iterator[None]:
    """Restore plain attributes on the way out, and what is in their lists, dicts and sets.

    A forward may keep a state or an activation there, or register hooks and a note that it has.

    Parameters must be the same ones on the way in and out: an LSTM keeps a list of them.
    """
    attributes = [(m, dict(vars(m))) for _, m in list_modules(module)]
    containers = [(v, type(v)(v)) for _, held in attributes for v in held.values() if type(v) in _CONTAINERS]
    try:
        yield
    finally:
        for m, held in attributes:
            for name in vars(m).keys() - held.keys():
                del vars(m)[name]
            vars(m).update(held)
        for value, before in containers:
            if isinstance(value, list):
                value[:] = before
            else:
                value.clear()
                value.update(before)


def set_scoring_mode(module: nn.Module, batch_statistics: bool) -> None:
    """Dropout off; normalisation on the batch's own statistics if asked, on the running ones otherwise."""
    module.eval()
    if batch_statistics:
        for m in module.modules():
            if isinstance(m, NORMS):
                m.train()


@contextmanager
def differentiable_kernels(module: nn.Module) -> Iterator[None]:
    """Run operations in the form that has a second derivative and a simple trace, uncompiled and in full precision.

    Fused attention and the RNNs of cuDNN and oneDNN have no double backward; torch.compile's graphs and the sparse
    gradients of embeddings have none either.
    """
    cudnn, fastpath = torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    modules = [m for _, m in list_modules(module)]
    held = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fastpath)
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(m, nn.RNNBase) for m in modules):
            stack.callback(setattr, torch.backends.cudnn, "enabled", cudnn)
            torch.backends.cudnn.enabled = False
            stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
            torch._C._set_mkldnn_enabled(False)
        for m in modules:
            if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse:
                stack.callback(setattr, m, "sparse", True)
                m.sparse = False
        if "torch._dynamo" in sys.modules:  # importing it takes seconds, and nothing is compiled where nobody has
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for kind in {"cpu", *(t.device.type for t in held)} - {"meta"}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
