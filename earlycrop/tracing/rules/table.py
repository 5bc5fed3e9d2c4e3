"""What each ATen operation means for the channels of its tensors: one function a family, and the table that names them.

A rule is called after its operation ran, with the watch, the operation, its arguments and its result's tensors. What no
rule knows freezes the channels that it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from earlycrop.graph.types import NOT_UNDERSTOOD
from earlycrop.tracing.recorder import PARTS, UNKNOWN, Arguments, ChannelRecorder, Options
from earlycrop.tracing.rules import indexing, matmul, norms, views
from earlycrop.tracing.rules.zeros import is_zero_preserving
from earlycrop.utils.meta import tensor_arguments

aten: Any = torch.ops.aten
Rule: TypeAlias = Callable[[ChannelRecorder, Any, Arguments, Options, list[Tensor]], None]


@dataclass(frozen=True, slots=True)
class _Kind:
    """What there is to know of an operation, whatever it is given."""

    name: str
    packet: Any
    writes: bool
    makes: bool
    elementwise: bool
    moves: bool
    parts: bool
    contracts: bool
    rule: Rule


@cache
def _kind(operation: Any) -> _Kind:
    packet = operation.overloadpacket
    elementwise = torch.Tag.pointwise in operation.tags or packet in ELEMENTWISE
    return _Kind(
        operation._schema.name.removeprefix("aten::"), packet, operation._schema.is_mutable, packet in FACTORIES,
        elementwise, packet in views.VIEWS, packet in views.SPLITS, packet in CONTRACTIONS,
        RULES.get(packet, _elementwise if elementwise else _unknown),
    )  # fmt: skip


def apply(
    watch: ChannelRecorder,
    operation: Any,
    arguments: Arguments,
    options: Options,
    inputs: list[Tensor],
    results: list[Tensor],
) -> None:
    """Bring the watch up to date after ``operation`` gave ``results``; ``inputs``: the tensors among its arguments."""
    record_scalars(watch, operation, arguments, options, inputs, results)
    kind = _kind(operation)
    watch.seen.update(map(id, inputs))
    if kind.writes:
        _record_write(watch, kind.packet, arguments)
    if kind.makes:
        for result in results:  # zeros_like(x) is as wide as x
            watch.learn(result, watch.fields(arguments[0]) if arguments else (), uniform=True)
        return
    if not kind.contracts and not any(watch.fields(t) for t in inputs):
        if (kind.elementwise or kind.moves or kind.parts) and inputs and all(watch.known(t).uniform for t in inputs):
            for result in results:
                watch.learn(result, uniform=True)
        return
    gone = is_zero_preserving(watch, kind.packet, arguments, inputs)
    try:
        kind.rule(watch, operation, arguments, options, results)
    except (IndexError, ValueError, TypeError):  # called in a form that the rule does not know
        _unknown(watch, operation, arguments, options, results)
    for result in results:
        known = watch.known(result)
        if known is not UNKNOWN:
            known.vanishes = gone


def record_scalars(
    watch: ChannelRecorder,
    operation: Any,
    arguments: Arguments,
    options: Options,
    inputs: list[Tensor],
    results: list[Tensor],
) -> None:
    """Tell the watch no more than the plain numbers that ``operation`` was given."""
    kind = _kind(operation)
    watch.operation = kind.name
    if kind.makes:
        return
    if kind.elementwise:
        if numbers := tuple(_numbers(watch, arguments)):  # a copy for contiguity, say, comes and goes with the widths
            watch.reckoned((kind.name, numbers))
    elif kind.parts:
        watch.reckoned((PARTS, tuple(views.split_shares(kind.packet, arguments, options, results))))


def _numbers(watch: ChannelRecorder, arguments: Arguments) -> Iterator[float]:
    """The plain numbers among the arguments, tensors of a single one included where they are known."""
    for n in arguments:
        single = isinstance(n, Tensor) and n.ndim == 0 and not (watch.real or n.is_meta or n.is_complex())
        if single or isinstance(n, int | float):
            yield float(n)


def _record_write(watch: ChannelRecorder, packet: Any, arguments: Arguments) -> None:
    """What was written into is no longer the same everywhere, and nor is what it is a view of."""
    target = arguments[0] if arguments else None
    if not isinstance(target, Tensor) or (packet in (aten.fill_, aten.zero_) and target._base is None):
        return
    for t in (target, target._base):
        if t is not None and watch.known(t).uniform:
            watch.learn(t, watch.fields(t))


def _elementwise(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    operands = tensor_arguments(arguments, options)
    for result in results:
        fields = watch.elementwise(operands, result.ndim)
        if result._is_view() and any(result is t for t in operands) and len(fields) > len(watch.fields(result)):
            watch.freeze(fields, "it is written into a part of another tensor")
            continue
        watch.learn(result, fields, weight=all(watch.known(t).weight for t in operands))


def _unknown(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    for t in tree_leaves((arguments, options)):
        watch.freeze(watch.fields(t), NOT_UNDERSTOOD)
    for result in results:
        watch.learn(result)


def _along_dims(why: str, dims_of: Callable[[Tensor, Arguments, Options], set[int]]) -> Rule:
    """A rule for operations that mix what lies along some dimensions: channels there are frozen, others go through."""

    def rule(
        watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
    ) -> None:
        x = arguments[0]
        dims = dims_of(x, arguments, options)
        through = [g for f in watch.fields(x) if (g := watch.across(f, dims, why)) is not None]
        for result in results:
            gone = x.ndim - result.ndim
            kept = [f.reshape([n for d, n in enumerate(f.shape) if d not in dims]) if gone else f for f in through]
            watch.learn(result, kept if gone in (0, len(dims)) else [])

    return rule


def _reduced_dims(position: int) -> Callable[[Tensor, Arguments, Options], set[int]]:
    def dims(x: Tensor, arguments: Arguments, options: Options) -> set[int]:
        given = arguments[position] if len(arguments) > position else options.get("dim")
        given = [given] if isinstance(given, int) else given
        return {d % x.ndim for d in given} if given else set(range(x.ndim))

    return dims


def _spatial_dims(x: Tensor, arguments: Arguments, options: Options) -> set[int]:
    return set(range(2, x.ndim))


def _padded_dims(x: Tensor, arguments: Arguments, options: Options) -> set[int]:
    return {x.ndim - 1 - i // 2 for i, n in enumerate(arguments[1]) if n}


def _random(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    """Other numbers are drawn for the channels that are left; in training that is dropout's business."""
    if not watch.training:
        watch.freeze(watch.fields(arguments[0]), "random numbers are drawn for it in evaluation too")
    _elementwise(watch, operation, arguments, options, results)


def _copy(
    watch: ChannelRecorder, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]
) -> None:
    to, by = arguments[:2]
    if not to._is_view() and to.ndim == by.ndim:
        watch.learn(to, watch.elementwise([by], to.ndim))
    else:
        watch.freeze(watch.elementwise([to, by], to.ndim), "it is written into a part of another tensor")


def _aten_operations(names: str) -> list[Any]:
    """The ATen operations of these names, those that this torch has."""
    return [getattr(aten, name) for name in names.split() if hasattr(aten, name)]


FACTORIES = _aten_operations(
    "zeros ones full empty scalar_tensor zeros_like ones_like full_like empty_like "
    "new_zeros new_ones new_full new_empty"
)
ELEMENTWISE = _aten_operations(
    "native_dropout hardtanh_ hardswish_ where prelu _prelu_kernel hardsigmoid floor_divide masked_fill"
)
_FAMILIES: list[tuple[str, Rule]] = [
    ("mm", matmul.mm),
    ("mv", matmul.mv),
    ("addmm", matmul.addmm),
    ("bmm", matmul.bmm),
    ("baddbmm", matmul.baddbmm),
    ("convolution", matmul.convolution),
    ("embedding", indexing.embedding),
    ("_embedding_bag _embedding_bag_forward_only", indexing.embedding_bag),
    ("index _unsafe_index", indexing.index),
    ("index_select", indexing.along_dim),
    ("gather", indexing.gather),
    ("glu", views.glu),
    ("channel_shuffle native_channel_shuffle", views.channel_shuffle),
    (
        "rand_like randn_like randint_like bernoulli bernoulli_ normal_ uniform_ exponential_ random_ poisson",
        _random,
    ),
    ("cat", views.cat),
    ("stack", views.stack),
    ("copy_", _copy),
    (
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
        "batch_norm_with_update _batch_norm_no_update miopen_batch_norm",
        norms.batch_norm,
    ),
    ("native_layer_norm", norms.layer_norm),
    ("native_group_norm", norms.group_norm),
    ("_weight_norm_interface", norms.weight_norm),
    ("constant_pad_nd", _along_dims("it is padded along", _padded_dims)),
    ("linalg_vector_norm", _along_dims("its norm is taken over", _reduced_dims(2))),
    ("roll", _along_dims("it is rolled along, and what is left would be another order", _reduced_dims(2))),
    (
        "mean sum amax amin var std max min argmax any logsumexp",
        _along_dims("it is summed, averaged or compared over", _reduced_dims(1)),
    ),
    (
        "_softmax _safe_softmax _log_softmax cumsum",
        _along_dims("a softmax or running sum goes over it", _reduced_dims(1)),
    ),
    (
        "avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d "
        "adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d "
        "_upsample_bicubic2d_aa upsample_trilinear3d reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d grid_sampler_2d grid_sampler_3d fractional_max_pool2d",
        _along_dims("it runs along the dimensions that are pooled or resized", _spatial_dims),
    ),
]
CONTRACTIONS = _aten_operations("mm mv addmm bmm baddbmm convolution")
"""Counted as work whatever is known of their operands."""
RULES: dict[Any, Rule] = {
    **dict.fromkeys(views.VIEWS, views.view),
    **dict.fromkeys(views.SPLITS, views.split),
    **{operation: rule for names, rule in _FAMILIES for operation in _aten_operations(names)},
}
