"""The memory format after a cut: channels last, if a training step is measured to be faster so."""

from __future__ import annotations

from typing import Any

import torch

from earlycrop.context import PruningContext
from earlycrop.selection.step_time import StepTimer
from earlycrop.utils.copies import copy_module
from earlycrop.utils.memory_format import is_channels_last, set_memory_format, trains_in_channels_last
from earlycrop.utils.parameters import flatten_optimizers

FASTER = 0.97
"""The share of a step that a step in channels last takes at most. It is measured to 1 %."""


def choose_memory_format(context: PruningContext, batch: Any) -> str | None:
    """Put the channels of a network last if it trains faster so, with its averages and its optimizers' states.

    Args:
        context: The network after a cut, and what goes on with it.
        batch: The batch to measure a training step on.

    Returns:
        What was measured, in a sentence. None if there is nothing to choose.
    """
    network = context.network
    models, optimizers = [network, *context.ema_models], flatten_optimizers(context.optimizers)
    if not any(p.ndim == 4 for p in network.parameters()):
        return None
    if not trains_in_channels_last(network):
        set_memory_format(models, optimizers, torch.contiguous_format)  # an earlier cut may have chosen the other
        return "the memory format is contiguous: torch cannot train this network in channels last"
    if is_channels_last(network):
        return None
    try:
        timer = StepTimer(network, context.loss, batch, context.group)
        after = timer.time(copy_module(network).to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    except Exception as error:  # the cut is made, and its event must reach the caller
        first_line = str(error).partition("\n")[0]
        return f"the memory format was kept: a step could not be measured ({type(error).__name__}: {first_line})"
    times = f"a training step takes {after / 1000:,.1f} ms so, and {timer.dense / 1000:,.1f} ms otherwise"
    if after > FASTER * timer.dense:
        return f"the memory format was kept, not changed to channels last: {times}"
    set_memory_format(models, optimizers, torch.channels_last)
    return f"the memory format is channels last: {times}"
