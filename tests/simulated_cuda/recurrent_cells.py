"""The recurrent cells that only GPUs have kernels for: torch's recurrent layers use them there, in place of parts."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.impl("aten::_thnn_fused_lstm_cell", "CUDA")
def lstm_cell(
    inputs: Tensor, hidden: Tensor, c: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden state, the cell's state, and the gates after their activations."""
    gates = _with_bias(inputs, input_bias) + _with_bias(hidden, hidden_bias)
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new_c = f * c + i * g
    return o * new_c.tanh(), new_c, torch.cat([i, f, g, o], 1)


@torch.library.impl("aten::_thnn_fused_lstm_cell_backward_impl", "CUDA")
def lstm_cell_backward(
    grad_h: Tensor | None, grad_c: Tensor | None, c: Tensor, new_c: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the gates, of the cell's old state, and of the biases."""
    i, f, g, o = workspace.chunk(4, 1)
    tanh = new_c.tanh()
    grad_h = torch.zeros_like(new_c) if grad_h is None else grad_h
    total = grad_h * o * (1 - tanh.square())
    if grad_c is not None:
        total = total + grad_c
    parts = [
        total * g * i * (1 - i),
        total * c * f * (1 - f),
        total * i * (1 - g.square()),
        grad_h * tanh * o * (1 - o),
    ]
    gates = torch.cat(parts, 1)
    return gates, total * f, gates.sum(0) if has_bias else gates.new_empty(0)


@torch.library.impl("aten::_thnn_fused_gru_cell", "CUDA")
def gru_cell(
    inputs: Tensor, hidden: Tensor, h: Tensor, input_bias: Tensor | None = None, hidden_bias: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the hidden state, and what the backward pass needs."""
    input_r, input_z, input_n = _with_bias(inputs, input_bias).chunk(3, 1)
    hidden_r, hidden_z, hidden_n = _with_bias(hidden, hidden_bias).chunk(3, 1)
    r, z = (input_r + hidden_r).sigmoid(), (input_z + hidden_z).sigmoid()
    n = (input_n + r * hidden_n).tanh()
    return n + z * (h - n), torch.cat([r, z, n, h, hidden_n], 1)


@torch.library.impl("aten::_thnn_fused_gru_cell_backward", "CUDA")
def gru_cell_backward(
    grad: Tensor, workspace: Tensor, has_bias: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of both sides' gates, of the old hidden state, and of the biases."""
    r, z, n, h, hidden_n = workspace.chunk(5, 1)
    grad_z, grad_n = grad * (h - n) * z * (1 - z), grad * (1 - z) * (1 - n.square())
    grad_r = grad_n * hidden_n * r * (1 - r)
    inputs, hidden = torch.cat([grad_r, grad_z, grad_n], 1), torch.cat([grad_r, grad_z, grad_n * r], 1)
    biases = (inputs.sum(0), hidden.sum(0)) if has_bias else (inputs.new_empty(0), inputs.new_empty(0))
    return inputs, hidden, grad * z, *biases


def _with_bias(gates: Tensor, bias: Tensor | None) -> Tensor:
    return gates if bias is None else gates + bias
