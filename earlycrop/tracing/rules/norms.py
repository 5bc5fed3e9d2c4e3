"""Rules for norms: a vector with an entry a channel is coupled with the channels, and what is averaged over stays."""

from __future__ import annotations

from torch import Tensor

from earlycrop.graph.types import ChannelLabels, Role
from earlycrop.tracing.labels import expand_labels
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder

NORMALISED = "it is normalised over"


def batch_norm(recorder: ChannelRecorder, op: Op) -> None:
    """The channels are coupled with scale, shift and running statistics; every other dimension is frozen."""
    x = op.args[0]
    channels = recorder.labels_along(x, 1)
    _couple_per_channel(recorder, channels, op.args[1:5])
    recorder.freeze([labels for labels in recorder.labels(x) if labels.shape[1] == 1], NORMALISED)
    recorder.set_info(op.results[0], [] if channels is None else [expand_labels(channels, 1, x.ndim)])


def group_norm(recorder: ChannelRecorder, op: Op) -> None:
    """All channels of a group are coupled, and with them their scales and shifts; other dimensions are frozen."""
    x, weight, bias, *_, groups = op.args[:7]
    channels = recorder.labels_along(x, 1)
    if channels is not None:
        by_group = channels.reshape(groups, -1)
        recorder.join(by_group, by_group[:, :1])
        recorder.mark_distinct(by_group[:, 0])
    _couple_per_channel(recorder, channels, (weight, bias))
    recorder.freeze([labels for labels in recorder.labels(x) if labels.shape[1] == 1], NORMALISED)
    recorder.set_info(op.results[0], [] if channels is None else [expand_labels(channels, 1, x.ndim)])


def layer_norm(recorder: ChannelRecorder, op: Op) -> None:
    """Everything along the normalised dimensions stays, and so do scale and shift."""
    x, shape = op.args[:2]
    normalised = set(range(x.ndim - len(shape), x.ndim))
    remaining = recorder.couple_or_freeze_along(recorder.labels(x), normalised, NORMALISED)
    for t in op.args[2:4]:
        recorder.freeze(recorder.labels(t), "it is the scale or shift of a norm over all channels")
    recorder.set_info(op.results[0], remaining)


def weight_norm(recorder: ChannelRecorder, op: Op) -> None:
    """A matrix from directions and lengths: what has a direction is coupled with its length, and the rest is frozen.

    Of most layers a row has a direction, and of a transposed convolution a column. The length has the same role.
    """
    direction, length = op.args[:2]
    dim = op.argument(2, "dim", 0)
    directions, lengths = recorder.labels_along(direction, dim), recorder.labels_along(length, dim)
    others = [labels for labels in recorder.labels(direction) if labels.shape[dim] == 1]
    recorder.freeze(others, "a norm of weights is taken over it")
    if directions is not None and lengths is not None:
        recorder.join(directions, lengths)
        recorder.same_roles.append((lengths, directions))
    recorder.add_role(directions, Role.DIRECTION)
    labels = others if directions is None else [expand_labels(directions, dim, direction.ndim), *others]
    recorder.set_info(op.results[0], labels, weight=recorder.info(direction).weight)


def _couple_per_channel(recorder: ChannelRecorder, channels: ChannelLabels | None, vectors: tuple[object, ...]) -> None:
    """Couple vectors with an entry a channel with the channels, or freeze both if one of them has no channels."""
    for t in vectors:
        entries = recorder.labels_along(t, 0)
        if channels is not None and entries is not None:
            recorder.join(channels, entries)
        elif isinstance(t, Tensor) and not recorder.info(t).uniform:
            recorder.freeze([channels, entries], "it is normalised along channels that may not be cut")
