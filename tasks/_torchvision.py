"""torchvision and transformers for the tasks: ``load("torchvision.models")`` where they are needed, as that takes long.

Of torchvision only models, data sets and transforms are used; see :mod:`earlycrop.utils.torchvision_compat` for why it
is not imported plainly.
"""

from earlycrop.utils.torchvision_compat import load_torchvision as load

__all__ = ["load"]
