"""Run the operations of a network on shapes, and pass each to a rule."""

from __future__ import annotations

from typing import Any

import torch

from earlycrop.tracing.operation import Op, Rule
from earlycrop.tracing.recorder import ChannelRecorder
from earlycrop.tracing.rules import table
from earlycrop.tracing.rules.recurrent import FUSED_CELLS
from earlycrop.utils.meta import MetaMode, tensor_arguments


class RecordingMode(MetaMode):  # type: ignore[no-untyped-call]
    """Run every operation, and pass it to a rule.

    Args:
        recorder: The recorder of the run.
        device: The device that all meta tensors report.
        real: Compute all values, however long it takes.
        rule: What is called with the recorder and each operation after it ran.
    """

    def __init__(
        self, recorder: ChannelRecorder, device: torch.device, real: bool, rule: Rule = table.apply_rule
    ) -> None:
        super().__init__(device, real)
        self.recorder, self.rule = recorder, rule
        recorder.real = real

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if (in_parts := FUSED_CELLS.get(func)) is not None:
            with self:  # a mode is off while it handles an operation
                return in_parts(*args, **kwargs)
        inputs = tensor_arguments(args, kwargs)
        result, results = self.run(func, args, kwargs, inputs)
        self.recorder.operation_count += 1
        self.rule(self.recorder, Op(func, args, kwargs, inputs, results))
        return result
