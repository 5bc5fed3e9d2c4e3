"""Type aliases for what users pass in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Loss = Callable[[nn.Module, Any], Any]
"""Loss function: (model, batch) -> a scalar tensor, or the loss's terms as a tuple or a mapping of scalar tensors."""
Tensors = dict[str, Tensor]
"""Parameter name -> a tensor of that parameter's shape."""
