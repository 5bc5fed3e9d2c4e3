"""The cells of recurrent layers that are one operation on a GPU, as the operations that run on the CPU in its place.

They are traced as these, so that a network has the same nodes on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten: Any = torch.ops.aten


def _lstm_cell(
    inputs: Tensor, hidden: Tensor, c: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden state, the cell's state, and the gates."""
    gates = _add_bias(inputs, input_bias) + _add_bias(hidden, hidden_bias)
    i, f, g, o = _chunks(gates, 4)
    new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * new_c.tanh(), new_c, gates


def _gru_cell(
    inputs: Tensor, hidden: Tensor, h: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the hidden state, and five values for the backward pass, of which the shapes count alone."""
    input_r, input_z, input_n = _chunks(_add_bias(inputs, input_bias), 3)
    hidden_r, hidden_z, hidden_n = _chunks(_add_bias(hidden, hidden_bias), 3)
    r, z = (input_r + hidden_r).sigmoid(), (input_z + hidden_z).sigmoid()
    n = (input_n + r * hidden_n).tanh()
    return (h - n) * z + n, torch.cat([r, z, n, h, hidden_n], 1)


def _add_bias(gates: Tensor, bias: Tensor | None) -> Tensor:
    return gates if bias is None else gates + bias


def _chunks(gates: Tensor, count: int) -> Any:
    """Split the gates by the operation that has a rule, as ``chunk`` is not taken apart below a mode."""
    return aten.split.Tensor(gates, gates.shape[1] // count, 1)


FUSED_CELLS: dict[Any, Callable[..., Any]] = {
    aten._thnn_fused_lstm_cell.default: _lstm_cell,
    aten._thnn_fused_gru_cell.default: _gru_cell,
}
"""Operation -> the same in parts."""
