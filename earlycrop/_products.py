"""Rules for matrix products, convolutions and look-ups: what is summed over is joined, the other sides go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from earlycrop._fields import Field, along, support
from earlycrop._watch import Role, Watch, Work

Arguments: TypeAlias = tuple[Any, ...]
Options: TypeAlias = Mapping[str, Any]


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
    a_inner, b_inner = watch.vector(a, 1), watch.vector(b, 0)
    a_rows, b_columns = watch.vector(a, 0, without=1), watch.vector(b, 1, without=0)
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


def mm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    watch.learn(results[0], _matrix_product(watch, arguments[0], arguments[1]))


def addmm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    bias, a, b = arguments[:3]
    watch.learn(results[0], _matrix_product(watch, a, b))
    _bias(watch, bias)
    watch.learn(results[0], watch.elementwise([bias, results[0]], 2))


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


def bmm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    watch.learn(results[0], _batched(watch, arguments[0], arguments[1]))


def baddbmm(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    watch.learn(results[0], _batched(watch, arguments[1], arguments[2]))
    watch.learn(results[0], watch.elementwise([arguments[0], results[0]], 3))


def convolution(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
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
    """Nodes are whole groups, or positions within every group, whichever is finer; the columns that may be cut."""
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


def embedding(watch: Watch, operation: Any, arguments: Arguments, options: Options, results: list[Tensor]) -> None:
    weight, index = arguments[:2]
    rows, width = watch.vector(weight, 0), watch.vector(weight, 1)
    watch.freeze([rows], "its rows are looked up by index")
    watch.role(rows, Role.LOOKUP)
    watch.role(width, Role.ROW)
    watch.learn(results[0], [] if width is None else [along(width, index.ndim, index.ndim + 1)])
