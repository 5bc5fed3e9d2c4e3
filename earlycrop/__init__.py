"""Prune networks early in training, by the effect of each weight or neuron on the gradient flow.

    pruner = earlycrop.Pruner(model, optimizer, loss, method="earlycrop-s", sparsity=0.95, epochs=80)
    pruner.step(batches)                 # before training: SNIP, CroP, ... prune here
    for epoch in range(80):
        train_one_epoch(model, optimizer)
        pruner.step(batches)             # after every epoch: EarlyCroP prunes when its trigger fires

Source: Rachwan et al., "Winning the Lottery Ahead of Time: Efficient Early Network Pruning", ICML 2022.
"""

from earlycrop._version import __version__ as __version__
from earlycrop.events import Event as Event
from earlycrop.graph.graph import Graph as Graph
from earlycrop.graph.nodes import Node as Node
from earlycrop.methods import METHODS as METHODS
from earlycrop.methods import Method as Method
from earlycrop.pruner import Pruner as Pruner
from earlycrop.pruning import prune as prune
from earlycrop.saving.models import load as load
from earlycrop.saving.models import save as save
from earlycrop.saving.states import load_state as load_state
from earlycrop.saving.states import save_state as save_state
from earlycrop.scoring.criteria import CRITERIA as CRITERIA
from earlycrop.scoring.criteria import Criterion as Criterion
from earlycrop.scoring.derivatives import flow as flow
from earlycrop.selection.constraints import Limits as Limits
from earlycrop.surgery.masks import Masks as Masks
from earlycrop.surgery.shrink import Cut as Cut
from earlycrop.surgery.shrink import shrink as shrink
from earlycrop.tracing.trace import trace as trace
from earlycrop.training.options import PrunerOptions as PrunerOptions
from earlycrop.triggers.base import Trigger as Trigger
from earlycrop.triggers.base import TriggerContext as TriggerContext
from earlycrop.triggers.triggers import TRIGGERS as TRIGGERS
from earlycrop.triggers.triggers import AtEpoch as AtEpoch
from earlycrop.triggers.triggers import Knee as Knee
from earlycrop.triggers.triggers import LazyRegime as LazyRegime
from earlycrop.triggers.triggers import MaskDistance as MaskDistance
from earlycrop.utils.errors import EarlyCropError as EarlyCropError
from earlycrop.utils.errors import FlowError as FlowError
from earlycrop.utils.errors import NotEnoughMemoryError as NotEnoughMemoryError
from earlycrop.utils.errors import SavingError as SavingError
from earlycrop.utils.errors import SurgeryError as SurgeryError
from earlycrop.utils.errors import TraceError as TraceError
from earlycrop.utils.materialise import materialise as materialise
