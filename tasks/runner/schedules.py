"""How the learning rate goes over a training with a pruning in it."""

from __future__ import annotations

import math

from earlycrop import METHODS, TRIGGERS, Pruner
from tasks.runner.options import Options


def one_cycle(progress: float) -> float:
    """Return the share of the largest learning rate: from 1/25 up over the first 30 %, and down to 1/250,000.

    Smith and Topin 2018, "Super-convergence", with the half cosines, and the numbers, of torch's OneCycleLR.
    """
    low, last, rise = 1 / 25, 1 / 25e4, 0.3
    if progress < rise:
        return low + (1 - low) * (1 - math.cos(math.pi * progress / rise)) / 2
    return last + (1 - last) * (1 + math.cos(math.pi * (progress - rise) / (1 - rise))) / 2


def _trigger(options: Options) -> str:
    """Return when a run prunes: a name in TRIGGERS, the number of an epoch, or nothing for a trigger without a name."""
    own = METHODS[options.method].trigger
    return options.trigger or next((name for name, trigger in TRIGGERS.items() if trigger is own), "")


def holds_until_cut(options: Options) -> bool:
    """Return whether a run is to train at a constant rate until a trigger prunes it."""
    row = METHODS[options.method]
    if options.schedule != "after-cut" or row.criterion is None or row.procedure != "once":
        return False
    return _trigger(options) not in ("0", "before", "after", "never")


def progress(options: Options, pruner: Pruner, done: float) -> float | None:
    """Return how far the learning rate's schedule has come, from 0 to 1, or None where the rate is held.

    ``keep``: over all epochs. ``restart``: anew over the epochs that are left after a pruning. ``after-cut``: the rate
    is held until the pruning, and the schedule runs over the epochs that are left; a network that is pruned after its
    training has a schedule for that and one for the rest. ``constant``: held throughout. A method that trains several
    times has a schedule in every training.

    Args:
        done: The share of the current epoch that is done.
    """
    start, end, schedule = 0, options.epochs, options.schedule
    if schedule == "constant" or (holds_until_cut(options) and pruner.event is None):
        return None
    if schedule != "keep" and pruner.total_epochs == options.epochs:
        if pruner.event is not None:
            start = pruner.event.epoch
        elif schedule == "after-cut" and _trigger(options) == "after":
            latest = TRIGGERS["after"](options.sparsity, options.epochs).latest
            end = options.epochs if latest is None else latest
    return (pruner.position + done - start) / (end - start)
