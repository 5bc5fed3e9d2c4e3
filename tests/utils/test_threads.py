"""Pruning in one thread leaves torch as other threads have set it, and expect it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from tests.toy import Net, mean_square

pytestmark = pytest.mark.usefixtures("without_type_checks")
LONG, SHORT = 60.0, 1.0
"""Seconds to wait for what must happen, and for what must not."""


def network(in_forward: Callable[[], object]) -> nn.Module:
    """A network with everything that is switched off while it is scored, which calls a function in every forward."""

    def forward(m: Any, x: Tensor) -> Tensor:
        in_forward()
        with torch.autocast("cpu", torch.bfloat16):
            hidden = m.lstm(x)[0].float()
        attended = functional.scaled_dot_product_attention(hidden, hidden, hidden)
        return m.last(m.first(attended).relu())  # type: ignore[no-any-return]

    return Net(forward, lstm=nn.LSTM(4, 6, batch_first=True), first=nn.Linear(6, 8), last=nn.Linear(8, 2))


def prune(model: nn.Module) -> earlycrop.Event:
    batch = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    return earlycrop.prune(model, mean_square, [batch], "crop", 0.1)


def settings() -> dict[str, Any]:
    backends: Any = torch.backends
    return {
        "flash": backends.cuda.flash_sdp_enabled(), "efficient": backends.cuda.mem_efficient_sdp_enabled(),
        "math": backends.cuda.math_sdp_enabled(), "cudnn attention": backends.cuda.cudnn_sdp_enabled(),
        "cudnn": backends.cudnn.enabled, "mkldnn": torch._C._get_mkldnn_enabled(),
        "fast path": backends.mha.get_fastpath_enabled(), "older precision": torch.get_float32_matmul_precision(),
        "precision": backends.mkldnn.matmul.fp32_precision, "autocast": torch.autocast.__enter__,
        "torch's random state": torch.get_rng_state().tolist(), "NumPy's": np.random.get_state()[1].tolist(),
    }  # fmt: skip


def in_thread(errors: list[BaseException], work: Callable[[], object]) -> Thread:
    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_two_prunings_at_once_leave_torch_as_it_was() -> None:
    """The second begins within the first, and ends after it, if it can."""
    errors: list[BaseException] = []
    first_inside, second_inside, first_done = Event(), Event(), Event()

    def in_first() -> None:
        if not first_inside.is_set():
            first_inside.set()
            second_inside.wait(SHORT)

    def in_second() -> None:
        if not second_inside.is_set():
            second_inside.set()
            first_done.wait(SHORT)

    def prune_first() -> None:
        try:
            prune(models[0])
        finally:
            first_done.set()

    models = [network(in_first), network(in_second)]
    before = settings()
    one = in_thread(errors, prune_first)
    assert first_inside.wait(LONG)
    two = in_thread(errors, lambda: prune(models[1]))
    for thread in (one, two):
        thread.join(LONG)
        assert not thread.is_alive()
    assert not errors
    assert settings() == before
    assert all(len(model.first.weight) < 8 for model in models)


def test_autocast_of_a_training_thread_stays_while_another_one_prunes() -> None:
    errors: list[BaseException] = []
    types: list[torch.dtype] = []
    pruner = get_ident()

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            types.append(functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype)

    def in_forward() -> None:
        if get_ident() == pruner:  # a training step in another thread, at every point where a pruning runs the network
            in_thread(errors, train).join(LONG)

    event = prune(network(in_forward))
    assert not errors
    assert len(types) > 5
    assert set(types) == {torch.bfloat16}
    assert event.difference is not None
    assert event.difference < 1e-5  # although the network asks for bfloat16 itself


def test_autocast_around_a_pruning_is_on_again_after_it() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        prune(network(lambda: None))
        assert functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype is torch.bfloat16
    assert functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype is torch.float32
