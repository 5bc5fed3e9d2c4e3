"""Layers that no run of a trace has called, and what must stay because of them.

A layer on a rare path (another task's head, stochastic routing, an expert without a token) is not seen by a trace. Its
inputs cannot be cut, because nobody cuts the layer with them. It is called by the module that contains it, so that it
can only be given what this module computes, or gives to its other submodules, or gets from them.

A parameter that a called module does not use (the token of a mask) is taken for one that is never used. If it has a
gradient in scoring all the same, nothing is cut, see :func:`earlycrop.scoring.scores.node_scores`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from earlycrop.tracing.module_calls import ModuleCallRecorder
from earlycrop.tracing.operation import Op
from earlycrop.tracing.recorder import ChannelRecorder
from earlycrop.tracing.recording_mode import RecordingMode
from earlycrop.tracing.rules.table import apply_rule
from earlycrop.utils.meta import shapes_only
from earlycrop.utils.modules import collect_tensors
from earlycrop.utils.validation import enumerate_names

MAY_USE = "a layer that no run has called may use it"


def unmet_parameters(recorder: ChannelRecorder, network: nn.Module) -> list[str]:
    """Return the parameters that no operation was given so far, without those of a single entry."""
    parameters = network.named_parameters()
    return [name for name, p in parameters if id(p) not in recorder.used_tensors and max(p.shape, default=1) > 1]


def uncalled_layers(names: Sequence[str], called: set[str]) -> list[str]:
    """Return the layers of these parameters that were never called."""
    layers = [name.rpartition(".")[0] for name in names]
    return [layer for layer in dict.fromkeys(layers) if layer and layer not in called]


def freeze_around_unmet(
    recorder: ChannelRecorder,
    module_calls: ModuleCallRecorder,
    layers: Sequence[str],
    run: Callable[[], Any],
    mode: RecordingMode,
) -> None:
    """Freeze the channels that the modules around some layers compute with, give away, or get.

    The network is recorded once more, now that it is known which modules these are.

    Args:
        recorder: The recorder of the runs before.
        module_calls: The record of the modules that ran.
        layers: The layers that were not called.
        run: Runs the network.
        mode: The mode to run under; its rule is replaced.
    """
    unmet: dict[str, list[str]] = {}
    for layer in layers:
        unmet.setdefault(_innermost(layer, module_calls.called), []).append(layer)
    reasons = {region: f"{MAY_USE}: {enumerate_names(inside)}" for region, inside in unmet.items()}

    def freeze(region: str, values: Any) -> None:
        for t in collect_tensors(values):
            recorder.freeze(recorder.labels(t), reasons[region])

    def apply_and_freeze(recorder: ChannelRecorder, op: Op) -> None:
        apply_rule(recorder, op)
        if recorder.module in reasons:
            freeze(recorder.module, (op.inputs, op.results))

    def on_call(caller: str, name: str, values: Any) -> None:
        for region in {caller, name} & reasons.keys():
            freeze(region, values)

    mode.rule = apply_and_freeze
    costs, scalars = list(recorder.cost_terms), list(recorder.scalars)
    with module_calls.record(recorder, on_call=on_call), shapes_only(mode):
        run()
    recorder.cost_terms[:], recorder.scalars[:] = costs, scalars


def _innermost(path: str, called: set[str]) -> str:
    """Return the innermost module around ``path``, or at it, that has run; "" for the network."""
    while path and path not in called:
        path = path.rpartition(".")[0]
    return path
