"""Keep the parameter objects over a cut, so that lists of parameters made before it see the small tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from earlycrop.surgery.slicing import Swap
from earlycrop.utils.modules import assign_tensor


def keep_parameter_objects(swaps: Sequence[Swap], optimizers: Iterable[Optimizer]) -> str | None:
    """Move the small tensors into the parameter objects that the modules had before the cut.

    What was built on the tensors inside of these objects keeps the old tensors: a graph that was not run backward yet,
    and ``DistributedDataParallel``, which must be made again.

    Args:
        swaps: What the cut has replaced, in each module.
        optimizers: All optimizers. They hold the new parameters, and then the old objects again.

    Returns:
        None, or, if torch refuses to move a tensor, the reason. All parameters are new objects then.
    """
    replaced = [
        (old, new, swap.places[name])
        for swap in swaps
        for name, (old, new) in swap.tensors.items()
        if isinstance(old, nn.Parameter)
    ]
    problem = _exchange([(old, new) for old, new, _ in replaced])
    if problem is not None:
        return problem
    for old, _, places in replaced:
        assign_tensor(places, old)
    old_by_new = {id(new): old for old, new, _ in replaced}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"][:] = [old_by_new.get(id(p), p) for p in group["params"]]
        for new in [p for p in optimizer.state if id(p) in old_by_new]:
            optimizer.state[old_by_new[id(new)]] = optimizer.state.pop(new)
    return None


def _exchange(pairs: Sequence[tuple[Tensor, Tensor]]) -> str | None:
    """Exchange the tensors inside of each pair of objects. After an error, exchange them back and return its message.

    ``torch.utils.swap_tensors`` does the same, but refuses if a graph refers to one of the tensors, as after every
    training step. Here that is permitted: the graph keeps its tensor.
    """
    done: list[tuple[Tensor, Tensor]] = []
    for pair in pairs:
        try:
            torch._C._swap_tensor_impl(*pair)
        except (RuntimeError, AttributeError) as error:
            for exchanged in reversed(done):
                torch._C._swap_tensor_impl(*exchanged)
            return str(error).partition("\n")[0]
        done.append(pair)
    return None
