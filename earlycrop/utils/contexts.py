"""Context managers that change or protect the state of a module or of torch, and restore it on exit."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from earlycrop.utils.modules import NORMS, assign_tensor, tensor_owners, tensors_by_name
from earlycrop.utils.object_state import ObjectState
from earlycrop.utils.process_lock import PROCESS_LOCK
from earlycrop.utils.random_states import preserve_random_states


@contextmanager
def replace_tensors(module: nn.Module, new: Mapping[str, Tensor]) -> Iterator[None]:
    """Replace parameters and buffers within the context.

    Args:
        module: The module that holds the tensors.
        new: Name -> replacement. A tied tensor is replaced everywhere.
    """
    old = tensors_by_name(module)
    owners = tensor_owners(module)
    places = {name: owners[id(old[name])] for name in new}
    with ExitStack() as stack:
        for name, tensor in new.items():
            stack.callback(assign_tensor, places[name], old[name])
            assign_tensor(places[name], tensor)
        yield


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leave inference mode within the context. A tensor that is created in inference mode can never be trained."""
    grad_enabled = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad_enabled):  # inference_mode(False) enables gradients
        yield


@contextmanager
def preserve_state(module: nn.Module) -> Iterator[ObjectState]:
    """Restore on exit what a forward pass or a loss may change.

    That is training modes, buffers, and all other attributes with what they hold, such as metrics, lists and caches;
    and the random states of torch on all devices, of NumPy and of Python. Values of parameters are not restored.
    Parameters must be the same objects on entry and exit.

    Args:
        module: The module that is restored, with its submodules.

    Yields:
        The state, which can also be restored within the context. It does not have the random states.
    """
    with preserve_random_states():
        state = ObjectState([module])
        try:
            yield state
        finally:
            state.restore()


def set_scoring_mode(module: nn.Module, batch_statistics: bool) -> None:
    """Switch ``module`` to evaluation mode for scoring.

    Args:
        module: The module, changed in place.
        batch_statistics: Whether batch norms use the statistics of the batch instead of the running ones.
    """
    module.eval()
    if batch_statistics:
        for m in module.modules():
            if isinstance(m, NORMS):
                m.train()


@contextmanager
def differentiable_kernels(module: nn.Module) -> Iterator[None]:
    """Run operations in a form that has a second derivative and a simple trace.

    Fused attention, the RNNs of cuDNN and oneDNN, compiled graphs and the sparse gradients of embeddings have no double
    backward, so they are switched off. Autocast is off as well, in this thread. The other switches are the process's:
    a second thread that asks for them waits.

    Args:
        module: The module that will run in the context.
    """
    modules = list(module.modules())
    tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    with PROCESS_LOCK, ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(m, nn.RNNBase) for m in modules):
            stack.callback(setattr, torch.backends.cudnn, "enabled", torch.backends.cudnn.enabled)
            torch.backends.cudnn.enabled = False
            stack.callback(torch._C._set_mkldnn_enabled, torch._C._get_mkldnn_enabled())
            torch._C._set_mkldnn_enabled(False)
        for m in modules:
            if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.sparse:
                stack.callback(setattr, m, "sparse", True)
                m.sparse = False
        if "torch._dynamo" in sys.modules:  # the import takes seconds; without it nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for device_type in {"cpu", *(t.device.type for t in tensors)} - {"meta"}:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
