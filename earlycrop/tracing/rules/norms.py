"""Rules for norms: what has an entry a channel goes with the channels, and what is normalised over stays whole."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from earlycrop.graph.types import ChannelLabels, Role
from earlycrop.tracing.labels import expand_labels
from earlycrop.tracing.recorder import Arguments, ChannelRecorder, Options


def batch_norm(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    x = arguments[0]
    channels = watch.vector(x, 1)
    for t in arguments[1:5]:
        if isinstance(t, Tensor):
            _follow(watch, channels, t)
    rest = [f for f in watch.fields(x) if f.shape[1] == 1]
    watch.freeze(rest, "it is normalised over")
    watch.learn(results[0], [] if channels is None else [expand_labels(channels, 1, x.ndim)])


def _follow(watch: ChannelRecorder, channels: ChannelLabels | None, t: Tensor) -> None:
    """A vector with an entry a channel goes with the channels, or stays whole if they may not be cut."""
    vector = watch.vector(t, 0)
    if channels is not None and vector is not None:
        watch.join(channels, vector)
    elif not watch.known(t).uniform:
        watch.freeze([channels, vector], "it is normalised along channels that may not be cut")


def layer_norm(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    x, shape = arguments[:2]
    first = x.ndim - len(shape)
    over = set(range(first, x.ndim))
    through = [g for f in watch.fields(x) if (g := watch.across(f, over, "it is normalised over")) is not None]
    for t in arguments[2:4]:
        watch.freeze(watch.fields(t), "it is the scale or shift of a norm over all channels")
    watch.learn(results[0], through)


def weight_norm(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    """A matrix in polar form: its norm is taken over all dimensions but one."""
    v, g = arguments[:2]
    dim = arguments[2] if len(arguments) > 2 else 0
    rows, scales = watch.vector(v, dim), watch.vector(g, dim)
    columns = [f for f in watch.fields(v) if f.shape[dim] == 1]
    watch.freeze(columns, "the norm of the weights that consume it is taken over it")
    if rows is not None and scales is not None:
        watch.join(rows, scales)
    watch.role(rows, Role.DIRECTION)
    watch.learn(
        results[0],
        columns if rows is None else [expand_labels(rows, dim, v.ndim), *columns],
        weight=watch.known(v).weight,
    )


def group_norm(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    x, weight, bias, *_, groups = arguments[:7]
    channels = watch.vector(x, 1)
    if channels is not None:
        by_group = channels.reshape(groups, -1)
        watch.join(by_group, by_group[:, :1])
        watch.apart(by_group[:, 0])
    for t in (weight, bias):
        if isinstance(t, Tensor):
            _follow(watch, channels, t)
    watch.learn(results[0], [] if channels is None else [expand_labels(channels, 1, x.ndim)])
