"""What each ATen operation means for the channels of its tensors: one function a family, and the table that names them.

A rule is called after its operation ran, with the watch, the operation, its arguments and its result's tensors. What no
rule knows freezes the channels that it touches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from earlycrop import _moves
from earlycrop._fields import Field, along, padded, support
from earlycrop._watch import Role, Watch, Work

aten: Any = torch.ops.aten
Arguments: TypeAlias = tuple[Any, ...]
Options: TypeAlias = Mapping[str, Any]
Rule: TypeAlias = Callable[[Watch, Any, Arguments, Options, list[Tensor]], None]


def apply(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    """Bring the watch up to date after ``operation`` gave ``results``."""
    inputs = [t for t in tree_leaves((arguments, options)) if isinstance(t, Tensor)]
    packet = operation.overloadpacket
    if packet in FACTORIES:
        for result in results:
            watch.learn(result, uniform=True)
        return
    elementwise = torch.Tag.pointwise in operation.tags or packet in ELEMENTWISE
    moves = packet in _moves.MOVES or packet in _moves.PARTS
    if not any(watch.fields(t) for t in inputs):
        if (elementwise or moves) and inputs and all(watch.known(t).uniform for t in inputs):
            for result in results:
                watch.learn(result, uniform=True)
        return
    rule = RULES.get(packet, _elementwise if elementwise else _unknown)
    rule(watch, operation, arguments, options, results)


def elementwise_fields(watch: Watch, operands: Sequence[Any], ndim: int) -> list[Field]:
    """Fields of an elementwise result: what the operands have along the same dimension is joined.

    An operand that is as wide as the others there, but has no channels, holds a fixed number of values: it freezes them.
    """
    tensors = [t for t in operands if isinstance(t, Tensor) and 0 < t.ndim <= ndim]
    result: list[Field] = []
    for f in (padded(f, ndim) for t in tensors for f in watch.fields(t)):
        meeting = [i for i, r in enumerate(result) if set(support(f)) & set(support(r))]
        for i in meeting:
            watch.join(f, result[i])
            if f.size > result[i].size:
                result[i] = f
        if not meeting:
            result.append(f)
    for t in tensors:
        if watch.known(t).uniform:
            continue
        shape = (1,) * (ndim - t.ndim) + tuple(t.shape)
        covered = {d for f in watch.fields(t) for d in support(padded(f, ndim))}
        fixed = [f for f in result if any(shape[d] > 1 and d not in covered for d in support(f))]
        if fixed:
            watch.freeze(fixed, "it meets a tensor of a fixed size")
            result = [f for f in result if all(f is not x for x in fixed)]
    return result


def _elementwise(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    operands = tree_leaves((arguments, options))
    for result in results:
        fields = elementwise_fields(watch, operands, result.ndim)
        if result._is_view() and any(result is t for t in operands) and len(fields) > len(watch.fields(result)):
            return watch.freeze(fields, "it is written into a part of another tensor")
        watch.learn(result, fields, weight=all(watch.known(t).weight for t in operands if isinstance(t, Tensor)))


def _unknown(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    for t in tree_leaves((arguments, options)):
        watch.freeze(watch.fields(t), "this operation is not understood")


def _contract(watch: Watch, a: Any, a_vector: Field | None, b: Any, b_vector: Field | None) -> None:
    """Both run along the dimension that is summed over."""
    a_known, b_known = watch.known(a), watch.known(b)
    if a_known.weight:
        watch.role(a_vector, Role.COLUMN)
    if b_known.weight:
        watch.role(b_vector, Role.COLUMN)
    if a_vector is not None and b_vector is not None:
        watch.join(a_vector, b_vector)
        if not (a_known.weight or b_known.weight):
            watch.inner.append(a_vector)
    elif not (a_known.uniform or b_known.uniform):
        watch.freeze([a_vector, b_vector], "it is multiplied with data of a fixed width, such as the network's input")


def _matrix_product(watch: Watch, a: Tensor, b: Tensor) -> list[Field]:
    a_rows, a_inner, b_inner, b_columns = (watch.vector(t, d) for t in (a, b) for d in (0, 1))
    _contract(watch, a, a_inner, b, b_inner)
    inner = b_inner if a_inner is None else a_inner
    _work(watch, a.shape[0] * a.shape[1] * b.shape[1], (a_rows, inner, b_columns))
    for t, vector in ((a, a_rows), (b, b_columns)):
        if watch.known(t).weight:
            watch.role(vector, Role.ROW)
    if a_rows is not None and b_columns is not None:
        watch.freeze([a_rows, b_columns], "it is one side of an outer product")
        return []
    return [along(v, d, 2) for d, v in enumerate((a_rows, b_columns)) if v is not None]


def _work(watch: Watch, total: int, vectors: Sequence[Field | None]) -> None:
    axes = tuple(v for v in vectors if v is not None)
    for v in axes:
        total //= v.size
    watch.work.append(Work(total, axes))


def _mm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    watch.learn(results[0], _matrix_product(watch, arguments[0], arguments[1]))


def _addmm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    bias, a, b = arguments[:3]
    watch.learn(results[0], _matrix_product(watch, a, b))
    _bias(watch, bias)
    watch.learn(results[0], elementwise_fields(watch, [bias, results[0]], 2))


def _bias(watch: Watch, bias: Any) -> None:
    if isinstance(bias, Tensor) and bias.ndim == 1 and watch.known(bias).weight:
        watch.role(watch.vector(bias, 0), Role.ROW)


def _batched(watch: Watch, a: Tensor, b: Tensor) -> list[Field]:
    """A product for each index of the batch: channels that depend on that index go with it, whole (attention heads)."""

    def sides(t: Tensor, inner: int, outer: int) -> tuple[Field | None, Field | None, Field | None]:
        batch = None
        for f in watch.fields(t):
            if f.shape[0] > 1:
                by_index = f.reshape(f.shape[0], -1)
                watch.join(by_index, by_index[:, :1])
                if batch is not None:
                    watch.join(batch, by_index[:, 0])
                batch = by_index[:, 0] if batch is None else batch
        only = {support(f): f.reshape(-1) for f in watch.fields(t) if f.shape[0] == 1 and len(support(f)) == 1}
        bent = [f for f in watch.fields(t) if f.shape[0] == 1 and len(support(f)) > 1]
        watch.freeze(bent, "its channels depend on several dimensions at once here")
        return batch, only.get((inner,)), only.get((outer,))

    a_batch, a_inner, a_outer = sides(a, 2, 1)
    b_batch, b_inner, b_outer = sides(b, 1, 2)
    if a_batch is not None and b_batch is not None:
        watch.join(a_batch, b_batch)
        watch.inner.append(a_batch)
    elif not watch.known(b if b_batch is None else a).uniform:
        watch.freeze([a_batch, b_batch], "it is multiplied batch by batch with data of a fixed size")
    _contract(watch, a, a_inner, b, b_inner)
    batch = b_batch if a_batch is None else a_batch
    inner = b_inner if a_inner is None else a_inner
    _work(watch, a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2], (batch, a_outer, inner, b_outer))
    if a_outer is not None and b_outer is not None:
        watch.freeze([a_outer, b_outer], "it is one side of an outer product")
        a_outer = b_outer = None
    return [along(v, d, 3) for d, v in enumerate((batch, a_outer, b_outer)) if v is not None]


def _bmm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    watch.learn(results[0], _batched(watch, arguments[0], arguments[1]))


def _baddbmm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    watch.learn(results[0], _batched(watch, arguments[1], arguments[2]))
    watch.learn(results[0], elementwise_fields(watch, [arguments[0], results[0]], 3))


def _convolution(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    x, weight, bias, *_, transposed, _, groups = arguments[:9]
    watch.freeze([f for f in watch.fields(x) if max(support(f)) > 1], "it runs along the dimensions that are convolved")
    rows, columns = watch.vector(weight, int(transposed)), watch.vector(weight, 1 - int(transposed))
    channels = watch.vector(x, 1)
    watch.freeze([watch.vector(weight, d) for d in range(2, weight.ndim)], "it is the extent of a kernel")
    if watch.known(weight).weight:
        watch.role(rows, Role.ROW)
    if groups == 1:
        _contract(watch, x, channels, weight, columns)
    elif transposed or channels is None:
        watch.freeze([rows, columns, channels], "it is a grouped convolution of a kind that is not cut")
        rows = columns = None
    else:
        columns = _grouped(watch, weight, groups, channels, rows, columns)
    positions = results[0].numel() // results[0].shape[1] if not transposed else x.numel() // x.shape[1]
    _work(watch, positions * weight.numel(), (rows, columns))
    fields = [] if rows is None else [along(rows, 1, x.ndim)]
    watch.learn(results[0], fields)
    if bias is not None:
        _bias(watch, bias)
        if rows is None:
            watch.freeze(watch.fields(bias), "it is the bias of channels that may not be cut")
        elif watch.fields(bias):
            watch.join(rows, watch.fields(bias)[0].reshape(-1))


def _grouped(
    watch: Watch, weight: Tensor, groups: int, channels: Field, rows: Field | None, columns: Field | None
) -> Field | None:
    """Nodes are whole groups, or positions within every group, whichever is finer; the columns that are still cuttable."""
    by_group = channels.reshape(groups, -1)
    outputs = None if rows is None else rows.reshape(groups, -1)
    if groups >= by_group.shape[1]:
        watch.freeze([columns], "it is a position within a group, and this convolution is cut by whole groups")
        watch.join(by_group, by_group[:, :1])
        if outputs is not None:
            watch.join(outputs, by_group[:, :1])
        return None
    if columns is not None:
        watch.join(by_group, columns[None])
        watch.role(columns, Role.COLUMN)
    if outputs is not None:
        watch.join(outputs, outputs[:1])
    return columns


def _batch_norm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    x = arguments[0]
    channels = watch.vector(x, 1)
    for t in arguments[1:5]:
        if isinstance(t, Tensor):
            _follow(watch, channels, t)
    rest = [f for f in watch.fields(x) if f.shape[1] == 1]
    watch.freeze(rest, "it is normalised over")
    watch.learn(results[0], [] if channels is None else [along(channels, 1, x.ndim)])


def _follow(watch: Watch, channels: Field | None, t: Tensor) -> None:
    """A vector with an entry a channel goes with the channels, or stays whole if they may not be cut."""
    vector = watch.vector(t, 0)
    if channels is not None and vector is not None:
        watch.join(channels, vector)
    elif not watch.known(t).uniform:
        watch.freeze([channels, vector], "it is normalised along channels that may not be cut")


def _layer_norm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    x, shape = arguments[:2]
    first = x.ndim - len(shape)
    over = [f for f in watch.fields(x) if max(support(f)) >= first]
    watch.freeze(over, "it is normalised over")
    for t in arguments[2:4]:
        watch.freeze(watch.fields(t), "it is the scale or shift of a norm over all channels")
    watch.learn(results[0], [f for f in watch.fields(x) if all(f is not o for o in over)])


def _group_norm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    x, weight, bias, *_, groups = arguments[:7]
    channels = watch.vector(x, 1)
    if channels is not None:
        by_group = channels.reshape(groups, -1)
        watch.join(by_group, by_group[:, :1])
    for t in (weight, bias):
        if isinstance(t, Tensor):
            _follow(watch, channels, t)
    watch.learn(results[0], [] if channels is None else [along(channels, 1, x.ndim)])


def _embedding(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    weight, index = arguments[:2]
    rows, width = watch.vector(weight, 0), watch.vector(weight, 1)
    watch.freeze([rows], "its rows are looked up by index")
    watch.role(rows, Role.LOOKUP)
    watch.role(width, Role.ROW)
    watch.learn(results[0], [] if width is None else [along(width, index.ndim, index.ndim + 1)])


def _along_dims(why: str, dims_of: Callable[[Tensor, Arguments, Options], set[int]]) -> Rule:
    """A rule for operations that mix what lies along some dimensions: channels there are frozen, others go through."""

    def rule(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
        x = arguments[0]
        dims = dims_of(x, arguments, options)
        through = [f for f in watch.fields(x) if not dims & set(support(f))]
        watch.freeze([f for f in watch.fields(x) if dims & set(support(f))], why)
        for result in results:
            gone = x.ndim - result.ndim
            kept = [f.reshape([n for d, n in enumerate(f.shape) if d not in dims]) if gone else f for f in through]
            watch.learn(result, kept if gone in (0, len(dims)) else [])

    return rule


def _reduced(position: int) -> Callable[[Tensor, Arguments, Options], set[int]]:
    def dims(x: Tensor, arguments: Arguments, options: Options) -> set[int]:
        given = arguments[position] if len(arguments) > position else options.get("dim")
        given = [given] if isinstance(given, int) else given
        return {d % x.ndim for d in given} if given else set(range(x.ndim))

    return dims


def _spatial(x: Tensor, arguments: Arguments, options: Options) -> set[int]:
    return set(range(2, x.ndim))


def _padded(x: Tensor, arguments: Arguments, options: Options) -> set[int]:
    return {x.ndim - 1 - i // 2 for i, n in enumerate(arguments[1]) if n}


def _copy(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    fields = elementwise_fields(watch, arguments[:2], arguments[0].ndim)
    watch.freeze(fields, "it is written into a part of another tensor")


FACTORIES = {
    getattr(aten, name)
    for name in "zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty "
    "scalar_tensor".split()
}
ELEMENTWISE = {
    getattr(aten, name)
    for name in "native_dropout rand_like randn_like hardtanh_ hardswish_ where prelu _prelu_kernel bernoulli "
    "hardsigmoid floor_divide masked_fill".split()
}
_REDUCTION = _along_dims("it is summed, averaged or compared over", _reduced(1))
RULES: dict[Any, Rule] = {
    aten.mm: _mm,
    aten.addmm: _addmm,
    aten.bmm: _bmm,
    aten.baddbmm: _baddbmm,
    aten.convolution: _convolution,
    aten.native_batch_norm: _batch_norm,
    aten._native_batch_norm_legit: _batch_norm,
    aten._native_batch_norm_legit_no_training: _batch_norm,
    aten.cudnn_batch_norm: _batch_norm,
    aten.native_layer_norm: _layer_norm,
    aten.native_group_norm: _group_norm,
    aten.embedding: _embedding,
    aten.copy_: _copy,
    aten.linalg_vector_norm: _along_dims("its norm is taken over", _reduced(2)),
    aten.constant_pad_nd: _along_dims("it is padded along", _padded),
    **dict.fromkeys([*_moves.MOVES], _moves.move),
    **dict.fromkeys([*_moves.PARTS], _moves.part),
    aten.cat: _moves.cat,
    aten.stack: _moves.stack,
    **dict.fromkeys(
        [aten.mean, aten.sum, aten.amax, aten.amin, aten.var, aten.std, aten.max, aten.min, aten.argmax, aten.any,
         aten.logsumexp],
        _REDUCTION,
    ),
    **dict.fromkeys(
        [aten._softmax, aten._safe_softmax, aten._log_softmax, aten.cumsum],
        _along_dims("a softmax or running sum goes over it", _reduced(1)),
    ),
    **dict.fromkeys(
        [getattr(aten, f"{kind}_pool{d}d") for kind in ("avg", "_adaptive_avg", "adaptive_avg", "adaptive_max")
         for d in (1, 2, 3) if hasattr(aten, f"{kind}_pool{d}d")]
        + [aten.max_pool2d_with_indices, aten.max_pool3d_with_indices, aten.upsample_bilinear2d,
           aten.upsample_nearest2d, aten.upsample_bicubic2d, aten.reflection_pad2d],
        _along_dims("it runs along the dimensions that are pooled or resized", _spatial),
    ),
}
