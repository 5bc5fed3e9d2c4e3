"""torchvision for the tasks: import it from here, ``from tasks._torchvision import torchvision``.

Only models and data sets are used; see :mod:`earlycrop._torchvision` for why it is not imported plainly.
"""

from __future__ import annotations

from earlycrop._torchvision import load

__all__ = ["load", "torchvision"]
torchvision = load()
