"""What each ATen operation means for the channels of its tensors: a rule for each family, and the table of all rules.

A rule is called with the recorder and the operation after the operation ran. An operation without a rule freezes the
channels of its inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from earlycrop.graph.types import NOT_UNDERSTOOD
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import UNKNOWN, ChannelRecorder, ScalarArgs
from earlycrop.tracing.rules import indexing, matmul, norms, splits, views
from earlycrop.tracing.rules.zeros import ZERO_RULES, ZeroRule, aten_operations

_log = logging.getLogger(__name__)
aten: Any = torch.ops.aten
Rule: TypeAlias = Callable[[ChannelRecorder, Op], None]
PARTIAL_WRITE = "it is written into a part of another tensor"


@dataclass(frozen=True, slots=True)
class _OperationTraits:
    """What is known of an operation, whatever its arguments."""

    name: str
    packet: Any
    writes: bool
    always_applies: bool
    is_split: bool
    is_elementwise: bool
    keeps_uniform: bool
    rule: Rule
    zero_rule: ZeroRule | None


@cache
def _get_traits(operation: Any) -> _OperationTraits:
    packet = operation.overloadpacket
    is_elementwise = (torch.Tag.pointwise in operation.tags or packet in ELEMENTWISE) and packet not in FACTORIES
    return _OperationTraits(
        name=operation._schema.name.removeprefix("aten::"),
        packet=packet,
        writes=operation._schema.is_mutable,
        always_applies=packet in FACTORIES or packet in CONTRACTIONS,
        is_split=packet in splits.SPLITS,
        is_elementwise=is_elementwise,
        keeps_uniform=is_elementwise or packet in views.VIEWS or packet in splits.SPLITS,
        rule=RULES.get(packet, _elementwise if is_elementwise else _freeze_unknown),
        zero_rule=ZERO_RULES.get(packet),
    )


def apply_rule(recorder: ChannelRecorder, op: Op) -> None:
    """Record what an operation means for the channels of its tensors.

    Args:
        recorder: The recorder of the run.
        op: The operation, which has just run.
    """
    record_scalars(recorder, op)
    traits = _get_traits(op.operation)
    recorder.used_tensors.update(map(id, op.inputs))
    if traits.writes:
        _record_write(recorder, traits.packet, op.args)
    if traits.always_applies or any(recorder.labels(t) for t in op.inputs):
        _record_channels(recorder, op, traits)
    elif traits.keeps_uniform and op.inputs and all(recorder.info(t).uniform for t in op.inputs):
        for result in op.results:
            recorder.set_info(result, uniform=True)


def _record_channels(recorder: ChannelRecorder, op: Op, traits: _OperationTraits) -> None:
    zero_preserving = traits.zero_rule is not None and traits.zero_rule(recorder, op)
    try:
        traits.rule(recorder, op)
    except (IndexError, ValueError, TypeError):  # called in a form that the rule does not know
        _freeze_unknown(recorder, op)
    except Exception as error:  # a fault of the rule is none of the model, which can still be cut elsewhere
        rule = getattr(traits.rule, "__name__", "a rule")
        _log.warning("the rule %s of %s failed, so its channels stay (%r): please report it", rule, traits.name, error)
        _freeze_unknown(recorder, op)
    for result in op.results:
        info = recorder.info(result)
        if info is not UNKNOWN:
            info.zero_preserving = zero_preserving


def record_scalars(recorder: ChannelRecorder, op: Op) -> None:
    """Record the scalar arguments of an elementwise operation, or the widths of a split.

    Args:
        recorder: The recorder of the run.
        op: The operation, which has just run.
    """
    traits = _get_traits(op.operation)
    recorder.operation = traits.name
    if traits.is_elementwise:
        if scalars := tuple(_scalar_arguments(recorder, op.args)):  # copies may come and go with the widths
            recorder.record_scalars(ScalarArgs(traits.name, scalars))
    elif traits.is_split:
        splits.record_split(recorder, traits.packet, op)


def _scalar_arguments(recorder: ChannelRecorder, args: tuple[Any, ...]) -> Iterator[float]:
    """Yield the numbers among the arguments, and those in tensors without dimensions if their values are known."""
    for n in args:
        has_value = isinstance(n, Tensor) and n.ndim == 0 and not (recorder.real or n.is_meta or n.is_complex())
        if has_value or isinstance(n, int | float):
            yield float(n)


def _record_write(recorder: ChannelRecorder, packet: Any, args: tuple[Any, ...]) -> None:
    """A tensor that is written to is no longer uniform, and neither is the tensor that it is a view of."""
    target = args[0] if args else None
    if not isinstance(target, Tensor) or (packet in (aten.fill_, aten.zero_) and target._base is None):
        return
    for t in (target, target._base):
        if t is not None and recorder.info(t).uniform:
            recorder.set_info(t, recorder.labels(t))


def _factory(recorder: ChannelRecorder, op: Op) -> None:
    """``zeros_like(x)`` is as wide as x, and uniform."""
    for result in op.results:
        recorder.set_info(result, recorder.labels(op.args[0]) if op.args else (), uniform=True)


def _elementwise(recorder: ChannelRecorder, op: Op) -> None:
    """The channels of all operands are coupled along each dimension."""
    for result in op.results:
        labels = recorder.elementwise(op.inputs, result.ndim)
        writes_to_view = result._is_view() and any(result is t for t in op.inputs)
        if writes_to_view and len(labels) > len(recorder.labels(result)):
            recorder.freeze(labels, PARTIAL_WRITE)
        else:
            recorder.set_info(result, labels, weight=all(recorder.info(t).weight for t in op.inputs))


def _freeze_unknown(recorder: ChannelRecorder, op: Op) -> None:
    """An operation without a rule freezes the channels of its inputs."""
    for t in op.inputs:
        recorder.freeze(recorder.labels(t), NOT_UNDERSTOOD)
    for result in op.results:
        recorder.set_info(result)


def _mixing_rule(why: str, get_dims: Callable[[Op], set[int]]) -> Rule:
    """Return a rule for operations that mix what lies along some dimensions.

    Channels along these dimensions are frozen, and the others are kept.
    """

    def rule(recorder: ChannelRecorder, op: Op) -> None:
        x, dims = op.args[0], get_dims(op)
        remaining = recorder.couple_or_freeze_along(recorder.labels(x), dims, why)
        for result in op.results:
            if result.ndim == x.ndim:
                recorder.set_info(result, remaining)
            elif result.ndim == x.ndim - len(dims):
                recorder.set_info(result, [labels.squeeze(tuple(dims)) for labels in remaining])
            else:
                recorder.set_info(result)

    return rule


def _reduced_dims(position: int) -> Callable[[Op], set[int]]:
    """Return a function that reads the dimensions from an argument; all dimensions if it is not given."""

    def get_dims(op: Op) -> set[int]:
        dims, ndim = op.argument(position, "dim"), op.args[0].ndim
        dims = [dims] if isinstance(dims, int) else dims
        return {d % ndim for d in dims} if dims else set(range(ndim))

    return get_dims


def _padded_dims(op: Op) -> set[int]:
    return {op.args[0].ndim - 1 - i // 2 for i, n in enumerate(op.args[1]) if n}


def _random(recorder: ChannelRecorder, op: Op) -> None:
    """Random numbers freeze the channels in evaluation mode, as fewer channels would get other numbers."""
    if not recorder.training:
        recorder.freeze(recorder.labels(op.args[0]), "random numbers are drawn for it in evaluation too")
    _elementwise(recorder, op)


def _copy(recorder: ChannelRecorder, op: Op) -> None:
    """A tensor that is overwritten takes the channels of the source; a part of a tensor freezes both."""
    target, source = op.args[:2]
    if not target._is_view() and target.ndim == source.ndim:
        recorder.set_info(target, recorder.elementwise([source], target.ndim))
    else:
        recorder.freeze(recorder.elementwise([target, source], target.ndim), PARTIAL_WRITE)


FACTORIES = aten_operations(
    "zeros ones full empty scalar_tensor zeros_like ones_like full_like empty_like "
    "new_zeros new_ones new_full new_empty"
)
ELEMENTWISE = aten_operations(
    "native_dropout hardtanh_ hardswish_ where prelu _prelu_kernel hardsigmoid floor_divide masked_fill"
)
_FAMILIES: list[tuple[str, Rule]] = [
    ("mm mv bmm", matmul.product),
    ("addmm baddbmm", matmul.biased_product),
    ("_grouped_mm", matmul.grouped_product),
    ("convolution", matmul.convolution),
    ("embedding _embedding_bag _embedding_bag_forward_only", indexing.embedding),
    ("index _unsafe_index", indexing.index),
    ("index_select", indexing.index_select),
    ("gather", indexing.gather),
    ("glu", views.glu),
    ("channel_shuffle native_channel_shuffle", views.channel_shuffle),
    ("rand_like randn_like randint_like bernoulli bernoulli_ normal_ uniform_ exponential_ random_ poisson", _random),
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
    ("constant_pad_nd", _mixing_rule("it is padded along", _padded_dims)),
    ("linalg_vector_norm", _mixing_rule("its norm is taken over", _reduced_dims(2))),
    ("roll", _mixing_rule("it is rolled along: without a channel, others would move elsewhere", _reduced_dims(2))),
    (
        "mean sum amax amin var std max min argmax any logsumexp",
        _mixing_rule("it is summed, averaged or compared over", _reduced_dims(1)),
    ),
    (
        "_softmax _safe_softmax _log_softmax cumsum",
        _mixing_rule("a softmax or running sum goes over it", _reduced_dims(1)),
    ),
    (
        "avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d "
        "adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d "
        "_upsample_bicubic2d_aa upsample_trilinear3d reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d grid_sampler_2d grid_sampler_3d fractional_max_pool2d",
        _mixing_rule(
            "it runs along the dimensions that are pooled or resized", lambda op: set(range(2, op.args[0].ndim))
        ),
    ),
]
CONTRACTIONS = aten_operations("mm mv addmm bmm baddbmm convolution _grouped_mm")
"""Their cost is recorded whether or not their operands have channels."""
RULES: dict[Any, Rule] = {
    **dict.fromkeys(views.VIEWS, views.view),
    **dict.fromkeys(splits.SPLITS, splits.split),
    **dict.fromkeys(FACTORIES, _factory),
    **{operation: rule for names, rule in _FAMILIES for operation in aten_operations(names)},
}
