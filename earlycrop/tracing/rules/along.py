"""Rules for operations that mix what lies along some dimensions: reductions, sorting, poolings, transforms.

Channels along these dimensions are frozen, or coupled where they depend on other dimensions as well. All other channels
are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from earlycrop.graph.types import ChannelLabels
from earlycrop.tracing.operation import Op, Rule
from earlycrop.tracing.recorder import ChannelRecorder

Dims: TypeAlias = Callable[[Op], set[int]]
"""A function that returns the dimensions of the first argument that an operation mixes."""
WINDOWS = "windows slide along it"
RANDOM = "random numbers are drawn for it in evaluation too"


def mixing_rule(why: str, dims: Dims) -> Rule:
    """Return a rule for operations that mix what lies along some dimensions of their first argument.

    The results have these dimensions or lack them.

    Args:
        why: Why channels along these dimensions are frozen.
        dims: Which dimensions these are.
    """

    def mix(recorder: ChannelRecorder, op: Op) -> None:
        x, mixed = op.args[0], dims(op)
        remaining = recorder.couple_or_freeze_along(recorder.labels(x), mixed, why)
        for result in op.results:
            if result.ndim == x.ndim:
                recorder.set_info(result, remaining)
            elif result.ndim == x.ndim - len(mixed):
                recorder.set_info(result, [labels.squeeze(tuple(mixed)) for labels in remaining])
            else:
                raise ValueError("the result has dimensions that this rule does not expect")

    return mix


def named_dims(op: Op) -> set[int]:
    """The dimensions in the argument ``dim`` or ``dims``; all if it names none."""
    position, name, default = _find_dim_argument(op.operation)
    dims, ndim = op.argument(position, name, default), op.args[0].ndim
    dims = [dims] if isinstance(dims, int) else dims
    return {d % ndim for d in dims} if dims else set(range(ndim))


@cache
def _find_dim_argument(operation: Any) -> tuple[int, str, Any]:
    """Return position, name and default of the argument that names dimensions."""
    for position, argument in enumerate(operation._schema.arguments):
        if argument.name in ("dim", "dims"):
            return position, argument.name, argument.default_value
    return len(operation._schema.arguments), "dim", None


def all_but_named_dims(op: Op) -> set[int]:
    """All dimensions that are not in the argument ``dim``."""
    return set(range(op.args[0].ndim)) - named_dims(op)


def spatial_dims(op: Op) -> set[int]:
    """The last one, two or three dimensions: ``max_pool2d`` says how many."""
    count = next(n for n in (1, 2, 3) if f"{n}d" in op.operation._schema.name)
    ndim = op.args[0].ndim
    return set(range(ndim - count, ndim))


def last_dims(count: int) -> Dims:
    """Return a function that returns the last ``count`` dimensions."""
    return lambda op: set(range(op.args[0].ndim - count, op.args[0].ndim))


def padded_dims(op: Op) -> set[int]:
    """The dimensions that are padded."""
    return {op.args[0].ndim - 1 - i // 2 for i, n in enumerate(op.args[1]) if n}


def pool_at_random(recorder: ChannelRecorder, op: Op) -> None:
    """Each channel is pooled at random places, and fewer channels would get other ones."""
    recorder.freeze(recorder.labels(op.args[0]), RANDOM)
    for result in op.results:
        recorder.set_info(result)


def unpool(recorder: ChannelRecorder, op: Op) -> None:
    """The channels are coupled with those of the places that a pooling returned."""
    x, places = op.args[:2]
    labels = recorder.elementwise([x, places], x.ndim)
    recorder.set_info(op.results[0], recorder.couple_or_freeze_along(labels, spatial_dims(op), WINDOWS))


def loss(recorder: ChannelRecorder, op: Op) -> None:
    """A loss couples its operands, and freezes their channels where it takes the mean or the sum of all entries."""
    tensors = [t for t in op.inputs if t.ndim]
    labels = recorder.elementwise(tensors, max(t.ndim for t in tensors))
    result = op.results[0]
    if result.ndim == 0:
        recorder.freeze(labels, "a loss is averaged or summed over it")
        labels = []
    recorder.set_info(result, labels)


def unfold(recorder: ChannelRecorder, op: Op) -> None:
    """``x.unfold(dim, size, step)`` puts the entries of each window along a new last dimension."""
    x, dim = op.args[0], op.args[1] % op.args[0].ndim
    remaining = recorder.couple_or_freeze_along(recorder.labels(x), {dim}, WINDOWS)
    recorder.set_info(op.results[0], [labels[..., None] for labels in remaining])


def number_buckets(recorder: ChannelRecorder, op: Op) -> None:
    """Each entry becomes the number of its bucket, whatever the others are."""
    recorder.set_info(op.results[0], recorder.labels(op.args[0]))


def triangle(recorder: ChannelRecorder, op: Op) -> None:
    """A triangle of the last two dimensions is kept.

    One of a weight parametrizes another matrix, such as an orthogonal one, whose channels are unknown.
    """
    if recorder.info(op.args[0]).weight:
        raise ValueError("the channels of the matrix that is made from it are unknown")
    _cut_triangle(recorder, op)


def diagonal(recorder: ChannelRecorder, op: Op) -> None:
    """The diagonal of two dimensions becomes the last dimension."""
    x = op.args[0]
    dims = {int(op.argument(i, name, default)) % x.ndim for i, name, default in ((2, "dim1", 0), (3, "dim2", 1))}
    remaining = recorder.couple_or_freeze_along(recorder.labels(x), dims, "a diagonal runs along it")
    recorder.set_info(op.results[0], [labels.squeeze(tuple(dims))[..., None] for labels in remaining])


def diag_embed(recorder: ChannelRecorder, op: Op) -> None:
    """The last dimension becomes the diagonal of two new ones."""
    x, y = op.args[0], op.results[0]
    dims = [int(op.argument(i, name, default)) % y.ndim for i, name, default in ((2, "dim1", -2), (3, "dim2", -1))]
    remaining = recorder.couple_or_freeze_along(recorder.labels(x), {x.ndim - 1}, "a diagonal runs along it")
    recorder.set_info(y, [np.expand_dims(labels.squeeze(-1), dims) for labels in remaining])


def patches_to_columns(recorder: ChannelRecorder, op: Op) -> None:
    """(N, C, H, W) to (N, C k k, L), or both without N: each channel is repeated for each position in a window."""
    x, y = op.args[0], op.results[0]
    dim = x.ndim - 3
    repeats = y.shape[dim] // x.shape[dim]
    remaining = recorder.couple_or_freeze_along(recorder.labels(x), {dim + 1, dim + 2}, WINDOWS)
    recorder.set_info(y, [_repeat(labels.squeeze(-1), dim, repeats) for labels in remaining])


def columns_to_patches(recorder: ChannelRecorder, op: Op) -> None:
    """(N, C k k, L) to (N, C, H, W), or both without N: the positions in a window are coupled."""
    x, y = op.args[0], op.results[0]
    dim = x.ndim - 2
    moved = []
    for labels in recorder.couple_or_freeze_along(recorder.labels(x), {dim + 1}, WINDOWS):
        if labels.shape[dim] > 1:
            windows = labels.reshape((*labels.shape[:dim], y.shape[dim], -1))
            labels = windows[..., :1]
            recorder.join(windows, labels)
        moved.append(labels[..., None])
    recorder.set_info(y, moved)


def pack(recorder: ChannelRecorder, op: Op) -> None:
    """Sequences of different lengths are written one after the other: (N, T, C) or (T, N, C) to (sum of lengths, C)."""
    remaining = recorder.couple_or_freeze_along(recorder.labels(op.args[0]), {0, 1}, "it is a time or a sequence")
    recorder.set_info(op.results[0], [labels.squeeze(0) for labels in remaining])


def _repeat(labels: ChannelLabels, dim: int, repeats: int) -> ChannelLabels:
    return np.repeat(labels, repeats, axis=dim) if labels.shape[dim] > 1 else labels


_cut_triangle = mixing_rule("a triangle is cut out of it", last_dims(2))
FAMILIES: list[tuple[str, Rule]] = [
    ("constant_pad_nd", mixing_rule("it is padded along", padded_dims)),
    ("linalg_vector_norm", mixing_rule("its norm is taken over", named_dims)),
    ("renorm renorm_", mixing_rule("its norm is taken over", all_but_named_dims)),
    ("roll", mixing_rule("it is rolled along: without a channel, others would move elsewhere", named_dims)),
    ("rot90", mixing_rule("it is turned along", named_dims)),
    ("tril triu tril_ triu_", triangle),
    (
        "mean sum nansum prod amax amin aminmax var std var_mean std_mean max min argmax argmin all any logsumexp "
        "median nanmedian mode kthvalue count_nonzero",
        mixing_rule("it is summed, averaged or compared over", named_dims),
    ),
    ("sort argsort topk", mixing_rule("it is sorted along", named_dims)),
    (
        "_softmax _safe_softmax _log_softmax cumsum cumsum_ cumprod cumprod_ cummax cummin logcumsumexp",
        mixing_rule("a softmax or running sum goes over it", named_dims),
    ),
    ("_fft_r2c _fft_c2r _fft_c2c", mixing_rule("a Fourier transform goes over it", named_dims)),
    ("view_as_complex", mixing_rule("it holds the two parts of a complex number", last_dims(1))),
    (
        "avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d "
        "adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d "
        "upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
        "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_bicubic2d "
        "_upsample_bicubic2d_aa upsample_trilinear3d reflection_pad1d reflection_pad2d reflection_pad3d "
        "replication_pad1d replication_pad2d replication_pad3d grid_sampler_2d grid_sampler_3d",
        mixing_rule("it runs along the dimensions that are pooled or resized", spatial_dims),
    ),
    ("fractional_max_pool2d fractional_max_pool3d", pool_at_random),
    ("max_unpool2d max_unpool3d", unpool),
    ("im2col", patches_to_columns),
    ("col2im", columns_to_patches),
    ("unfold", unfold),
    ("_pack_padded_sequence", pack),
    ("bucketize", number_buckets),
    ("diagonal", diagonal),
    ("diag_embed", diag_embed),
    ("mse_loss smooth_l1_loss huber_loss soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits", loss),
]
"""Names of ATen operations, and their rule."""
