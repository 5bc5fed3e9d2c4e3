"""torchvision and transformers for the tasks: ``load("torchvision.models")`` where they are needed, as that takes long.

Of torchvision only models, data sets and transforms are used; see :mod:`earlycrop._torchvision` for why it is not
imported plainly.
"""

from earlycrop._torchvision import load as load
