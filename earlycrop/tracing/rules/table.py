"""What each ATen operation means for the channels of its tensors: a rule for each family, and the table of all rules.

A rule is called with the recorder and the operation after the operation ran. An operation without a rule freezes the
channels of its inputs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from earlycrop.graph.types import NOT_UNDERSTOOD
from earlycrop.tracing.operation import Op, Rule
from earlycrop.tracing.recorder import UNKNOWN, ChannelRecorder, ScalarArgs
from earlycrop.tracing.rules import along, indexing, matmul, norms, splits, views, writes
from earlycrop.tracing.rules.zeros import ZERO_RULES, ZeroRule, aten_operations
from earlycrop.utils.errors import raise_if_out_of_memory

_log = logging.getLogger(__name__)
aten: Any = torch.ops.aten


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
        always_applies=packet in FACTORIES or packet in FILLS or packet in CONTRACTIONS,
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
    if traits.always_applies or any(recorder.labels(t) for t in op.inputs):
        _record_channels(recorder, op, traits)
    elif op.inputs and traits.keeps_uniform | traits.writes:
        uniform = traits.keeps_uniform and all(recorder.info(t).uniform for t in op.inputs)
        for result in op.results if uniform or traits.writes else ():
            recorder.set_info(result, uniform=uniform)
    if traits.writes:
        _record_write(recorder, op)


def _record_channels(recorder: ChannelRecorder, op: Op, traits: _OperationTraits) -> None:
    zero_preserving = traits.zero_rule is not None and traits.zero_rule(recorder, op)
    try:
        traits.rule(recorder, op)
    except (IndexError, ValueError, TypeError):  # called in a form that the rule does not know
        _freeze_unknown(recorder, op)
    except Exception as error:  # a fault of the rule is none of the model, which can still be cut elsewhere
        raise_if_out_of_memory(error)
        rule = getattr(traits.rule, "__name__", "a rule")
        _log.warning("the rule %s of %s failed, so its channels stay (%r): please report it", rule, traits.name, error)
        _freeze_unknown(recorder, op)
    for result in op.results:
        info = recorder.info(result)
        if info is not UNKNOWN:
            info.zero_preserving = zero_preserving and result.is_floating_point()  # indices are not


def _record_write(recorder: ChannelRecorder, op: Op) -> None:
    """Record a write for the tensors that the targets are parts of, if they are."""
    for result in op.results:
        if result._is_view() and any(result is t for t in op.inputs):
            writes.after_write(recorder, result, recorder.info(result).zero_preserving)


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


def _factory(recorder: ChannelRecorder, op: Op) -> None:
    """``zeros_like(x)`` is as wide as x, and uniform; ``x.new_zeros(shape)`` is as wide where it has x's shape."""
    x = op.args[0] if op.args else None
    for result in op.results:
        same_shape = isinstance(x, Tensor) and x.shape == result.shape
        recorder.set_info(result, recorder.labels(x) if same_shape else (), uniform=True)


def _elementwise(recorder: ChannelRecorder, op: Op) -> None:
    """The channels of all operands are coupled along each dimension."""
    for result in op.results:
        labels = recorder.elementwise(op.inputs, result.ndim)
        if result._is_view() and any(result is t for t in op.inputs):
            writes.set_written(recorder, result, labels)
        else:
            recorder.set_info(result, labels, weight=all(recorder.info(t).weight for t in op.inputs))


def _freeze_unknown(recorder: ChannelRecorder, op: Op) -> None:
    """An operation without a rule freezes the channels of its inputs."""
    for t in op.inputs:
        recorder.freeze(recorder.labels(t), NOT_UNDERSTOOD)
    for result in op.results:
        recorder.set_info(result)


def _random(recorder: ChannelRecorder, op: Op) -> None:
    """Random numbers freeze the channels in evaluation mode, as fewer channels would get other numbers."""
    if not recorder.training:
        recorder.freeze(recorder.labels(op.args[0]), along.RANDOM)
    _elementwise(recorder, op)


def _with_in_place(names: str) -> set[Any]:
    """Return the ATen operations of these names, and those that do the same in place."""
    return aten_operations(" ".join(f"{name} {name}_" for name in names.split()))


FACTORIES = aten_operations(
    "zeros ones full empty scalar_tensor zeros_like ones_like full_like empty_like "
    "new_zeros new_ones new_full new_empty"
)
FILLS = aten_operations("fill_ zero_")
ELEMENTWISE = _with_in_place(
    "native_dropout hardtanh hardswish where prelu _prelu_kernel hardsigmoid floor_divide masked_fill mish threshold "
    "log_sigmoid_forward rrelu_with_noise rsub complex polar leaky_relu elu celu selu"
)
_FAMILIES: list[tuple[str, Rule]] = [
    ("mm mv bmm _sparse_mm_reduce_impl", matmul.product),
    ("addmm baddbmm _sparse_addmm", matmul.biased_product),
    ("_grouped_mm", matmul.grouped_product),
    ("convolution", matmul.convolution),
    ("_trilinear", matmul.bilinear),
    ("_cdist_forward _euclidean_dist", matmul.distance),
    ("embedding _embedding_bag _embedding_bag_forward_only", indexing.embedding),
    ("index _unsafe_index", indexing.index),
    ("index_put index_put_ _unsafe_index_put", indexing.index_put),
    ("index_select", indexing.index_select),
    ("gather", indexing.gather),
    (
        "scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_ index_add index_add_ index_copy "
        "index_copy_ index_fill index_fill_ index_reduce index_reduce_",
        indexing.scatter,
    ),
    ("slice_scatter select_scatter", indexing.scatter_slice),
    ("glu", views.glu),
    ("channel_shuffle native_channel_shuffle", views.channel_shuffle),
    ("rand_like randn_like randint_like bernoulli bernoulli_ normal_ uniform_ exponential_ random_ poisson", _random),
    ("cat", views.cat),
    ("stack", views.stack),
    ("copy_", writes.copy),
    (
        "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
        "_batch_norm_with_update _batch_norm_no_update miopen_batch_norm",
        norms.batch_norm,
    ),
    ("native_layer_norm", norms.layer_norm),
    ("native_group_norm", norms.group_norm),
    ("_weight_norm_interface", norms.weight_norm),
    *along.FAMILIES,
]
CONTRACTIONS = aten_operations(
    "mm mv addmm bmm baddbmm _sparse_addmm _sparse_mm_reduce_impl _trilinear convolution _grouped_mm"
)
"""Their cost is recorded whether or not their operands have channels."""
RULES: dict[Any, Rule] = {
    **dict.fromkeys(views.VIEWS, views.view),
    **dict.fromkeys(splits.SPLITS, splits.split),
    **dict.fromkeys(FACTORIES, _factory),
    **dict.fromkeys(FILLS, writes.fill),
    **{operation: rule for names, rule in _FAMILIES for operation in aten_operations(names)},
}
