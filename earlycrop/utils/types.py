"""Type aliases for what users pass in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Loss = Callable[[nn.Module, Any], Tensor]
"""Loss function: (model, batch) -> scalar tensor."""
Tensors = dict[str, Tensor]
"""Parameter name -> a tensor of that parameter's shape."""
