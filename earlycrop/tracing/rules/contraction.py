"""What the rules for products share: couple channels that are summed over, and record the cost of a product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from earlycrop.graph.types import ChannelLabels, CostTerm, Role
from earlycrop.tracing.recorder import ChannelRecorder

Channels: TypeAlias = ChannelLabels | None
"""The channels along one dimension, or None if there are none."""


def contract(recorder: ChannelRecorder, a: Any, a_channels: Channels, b: Any, b_channels: Channels) -> None:
    """Couple the channels of two tensors along the dimension that is summed over."""
    a_info, b_info = recorder.info(a), recorder.info(b)
    if a_info.weight:
        recorder.add_role(a_channels, Role.COLUMN)
    if b_info.weight:  # of two weights that are multiplied, the first one consumes what the second one produces
        recorder.add_role(b_channels, Role.ROW if a_info.weight else Role.COLUMN)
    if a_channels is not None and b_channels is not None:
        recorder.join(a_channels, b_channels)
        if not (a_info.weight or b_info.weight):
            recorder.activation_products.append(a_channels)
            if not (a_info.zero_preserving or b_info.zero_preserving):
                why = "a product of two activations is summed over it, and is not zero where the channel is masked"
                recorder.freeze([a_channels], why)
    elif not (a_info.uniform or b_info.uniform):
        why = "it is multiplied with data of a fixed width, such as the network's input"
        recorder.freeze([a_channels, b_channels], why)


def contract_all(
    recorder: ChannelRecorder, a: Tensor, a_vectors: list[ChannelLabels], b: Tensor, b_vectors: list[ChannelLabels]
) -> None:
    """Couple the channels of two tensors along a dimension that may have been made from several dimensions."""
    for a_channels, b_channels in _pair_vectors(a_vectors, b_vectors):
        contract(recorder, a, a_channels, b, b_channels)


def _pair_vectors(a: list[ChannelLabels], b: list[ChannelLabels]) -> list[tuple[Channels, Channels]]:
    """Pair vectors in which the same positions have equal channels, and those that are left by their channels' number.

    A weight of (out, in, basis) that is flattened to (out, in basis) has a vector for ``in``, and one for ``basis``.
    """
    if len(a) < 2 and len(b) < 2:
        return list(zip_longest(a, b))
    pairs, left_a, left_b = [], [], list(b)
    for vector in a:
        same = next((i for i, other in enumerate(left_b) if _have_same_pattern(vector, other)), None)
        if same is None:
            left_a.append(vector)
        else:
            pairs.append((vector, left_b.pop(same)))
    for vectors in (left_a, left_b):
        vectors.sort(key=lambda vector: -np.unique(vector).size)
    return [*pairs, *zip_longest(left_a, left_b)]


def _have_same_pattern(a: ChannelLabels, b: ChannelLabels) -> bool:
    return np.array_equal(_first_positions(a), _first_positions(b))


def _first_positions(vector: ChannelLabels) -> ChannelLabels:
    """Return for each position the first one of the same channel."""
    _, first, inverse = np.unique(vector, return_index=True, return_inverse=True)
    return first[inverse]


def cost_axes(*dims: list[ChannelLabels]) -> list[ChannelLabels]:
    """Return the channels by which the cost of a product shrinks, from those along each dimension."""
    axes: list[ChannelLabels] = []
    for vectors in dims:
        if len(vectors) > 1:
            distinct = [np.unique(vector) for vector in vectors]
            is_split = math.prod(vector.size for vector in distinct) == vectors[0].size
            vectors = distinct if is_split else vectors[:1]
        axes += vectors
    return axes


def count_cost(recorder: ChannelRecorder, macs: int, axes: Sequence[Channels]) -> None:
    """Record the multiply-accumulates of an operation as a product over the channels of these axes."""
    vectors = tuple(channels for channels in axes if channels is not None)
    for channels in vectors:
        macs //= channels.size
    recorder.cost_terms.append(CostTerm(macs, vectors, recorder.module))


def add_bias_role(recorder: ChannelRecorder, bias: Any) -> None:
    if isinstance(bias, Tensor) and bias.ndim == 1 and recorder.info(bias).weight:
        recorder.add_role(recorder.labels_along(bias, 0), Role.ROW)
