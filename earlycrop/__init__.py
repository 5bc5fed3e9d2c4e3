"""Prune networks early in training, by the effect of each weight or neuron on the gradient flow.

    pruner = earlycrop.Pruner(model, optimizer, loss, method="earlycrop-s", sparsity=0.95, epochs=80)
    pruner.step(batches)                 # before training: SNIP, CroP, ... prune here
    for epoch in range(80):
        train_one_epoch(model, optimizer)
        pruner.step(batches)             # after every epoch: EarlyCroP prunes when its trigger fires

Source: Rachwan et al., "Winning the Lottery Ahead of Time: Efficient Early Network Pruning", ICML 2022.
"""

from earlycrop._version import __version__
from earlycrop.events import Event
from earlycrop.graph.graph import Graph
from earlycrop.graph.nodes import Node
from earlycrop.methods import METHODS, Method
from earlycrop.pruner import Pruner, PrunerOptions
from earlycrop.pruning import prune
from earlycrop.saving import load, load_state, save, save_state
from earlycrop.scoring.criteria import CRITERIA, Criterion
from earlycrop.scoring.derivatives import flow
from earlycrop.selection.constraints import Limits
from earlycrop.surgery.masks import Masks
from earlycrop.surgery.shrink import Cut, shrink
from earlycrop.tracing.trace import trace
from earlycrop.triggers.triggers import TRIGGERS, AtEpoch, Knee, LazyRegime, MaskDistance, Trigger, TriggerContext
from earlycrop.utils.errors import EarlyCropError, FlowError, SavingError, SurgeryError, TraceError
from earlycrop.utils.materialise import materialise

__all__ = [
    "CRITERIA",
    "METHODS",
    "TRIGGERS",
    "AtEpoch",
    "Criterion",
    "Cut",
    "EarlyCropError",
    "Event",
    "FlowError",
    "Graph",
    "Knee",
    "LazyRegime",
    "Limits",
    "MaskDistance",
    "Masks",
    "Method",
    "Node",
    "Pruner",
    "PrunerOptions",
    "SavingError",
    "SurgeryError",
    "TraceError",
    "Trigger",
    "TriggerContext",
    "__version__",
    "flow",
    "load",
    "load_state",
    "materialise",
    "prune",
    "save",
    "save_state",
    "shrink",
    "trace",
]
