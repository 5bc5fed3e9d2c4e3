"""Losses of depth regression, and errors over a whole split: Laina et al. 2016, sections 3.3 and 4.2.

A depth of 0 is no reading, and counts nowhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tasks.runner.errors import RunError

NEAREST = 0.01
"""Metres that a prediction counts as at least, where it is divided by or its logarithm taken."""
UNREAD = "has a reading: depths are all 0 or not finite, where metres are needed"


def berhu(predicted: Tensor, truth: Tensor) -> Tensor:
    """The mean reverse Huber loss over pixels with a reading: |x| up to c, and (x^2 + c^2) / 2c beyond (eq. 1).

    c is a fifth of the largest |x| of the batch, and is not differentiated.
    """
    x = _differences(predicted, truth).abs()
    c = (x.detach().max() / 5).clamp(min=1e-6)
    return torch.where(x <= c, x, (x.square() + c.square()) / (2 * c)).sum() / (truth > 0).sum()


def l2(predicted: Tensor, truth: Tensor) -> Tensor:
    """The mean squared error in square metres over pixels with a reading."""
    return _differences(predicted, truth).square().sum() / (truth > 0).sum()


def _differences(predicted: Tensor, truth: Tensor) -> Tensor:
    """0 where there is no reading: picking those that have one would make a shape of values, which a trace has not."""
    return torch.where(truth > 0, predicted - truth, 0)


class Errors:
    """Sums over all pixels with a reading; their means are those of a split, whatever the batches were."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.pixels = 0

    def add(self, predicted: Tensor, truth: Tensor) -> None:
        """Take in predictions and true depths in metres, of one shape."""
        read = truth > 0
        d, t = predicted[read].double(), truth[read].double()
        bounded = d.clamp(min=NEAREST)
        ratio = torch.maximum(bounded / t, t / bounded)
        new = {
            "rmse": (d - t).square(), "rel": (d - t).abs() / t, "log10": (bounded / t).log10().abs(),
            **{f"delta{k}": (ratio < 1.25**k).double() for k in (1, 2, 3)},
        }  # fmt: skip
        for name, values in new.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())
        self.pixels += int(read.sum())

    def means(self) -> dict[str, float]:
        """Root mean square error in metres; mean relative and log10 errors; shares of pixels within 1.25, its square
        and its cube of the truth (section 4.2, as Eigen et al. 2014 have them).

        Raises:
            RunError: there was no pixel with a reading.
        """
        if not self.pixels:
            raise RunError(f"no pixel that was evaluated {UNREAD}")
        result = {name: total / self.pixels for name, total in self.sums.items()}
        return {**result, "rmse": math.sqrt(result["rmse"])}
