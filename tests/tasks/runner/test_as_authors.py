"""--as-authors: the scoring of the paper's authors' code."""

from __future__ import annotations

from typing import Any

import pytest

from earlycrop import Pruner
from tasks import cifar10, digits
from tasks.runner.training_loop import fresh, pruner_of


def pruner(**options: Any) -> Pruner:
    chosen = digits.Options(as_authors=True, widths=(8, 8), **options)
    task = digits.make(chosen)
    return pruner_of(task, chosen, *fresh(task, chosen))


@pytest.mark.parametrize(
    ("method", "rounds"), [("crop-u", 1), ("cropit-s", 7), ("earlycrop-u", 7), ("earlycrop-s", 1), ("snap", 1)]
)
def test_gates_statistics_flow_and_rounds_are_the_authors(method: str, rounds: int) -> None:
    request = pruner(method=method, sparsity=0.9).request
    assert request is not None
    assert (request.gate, request.statistics, len(request.targets)) == ("rows", "running", rounds)
    assert request.criterion.matrices_only


def test_what_is_asked_for_goes_before_and_what_has_no_derivative_stays() -> None:
    request = pruner(method="crop-s", gate="columns", statistics="batch").request
    assert request is not None
    assert (request.gate, request.statistics) == ("columns", "batch")
    request = pruner(method="magnitude-s").request
    assert request is not None
    assert (request.gate, request.criterion.matrices_only) == ("auto", False)


def test_the_paper_s_presets_score_and_train_so() -> None:
    options = cifar10.paper_table1()
    assert (options.as_authors, options.schedule, options.scoring) == (True, "after-cut", 5)
