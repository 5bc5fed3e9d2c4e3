"""The memory that scoring needs: estimated on shapes, compared with what torch allocates, and asked for in time."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import earlycrop
from earlycrop.scoring import memory
from earlycrop.scoring.criteria import CRITERIA
from earlycrop.scoring.memory import estimate_memory
from earlycrop.scoring.scores import weight_scores
from earlycrop.utils import devices
from earlycrop.utils.devices import free_memory
from earlycrop.utils.errors import NotEnoughMemoryError
from tests.toy import Net

CPU = torch.device("cpu")


def wide() -> tuple[nn.Module, Tensor]:
    layers = (nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 5))
    return nn.Sequential(*layers), torch.randn(2048, 256)


def convolutions() -> tuple[nn.Module, Tensor]:
    stem = (nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU())
    return nn.Sequential(*stem, nn.Flatten(), nn.Linear(32 * 25, 5)), torch.randn(64, 3, 16, 16)


def residual() -> tuple[nn.Module, Tensor]:
    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.stem(x)
        for block in m.blocks:
            x = (x + block(x)).relu()
        return m.head(x.mean((2, 3)))

    blocks = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)) for _ in range(4)]
    parts = {"stem": nn.Conv2d(3, 16, 3, padding=1), "blocks": nn.ModuleList(blocks), "head": nn.Linear(16, 5)}
    return Net(forward, **parts), torch.randn(16, 3, 24, 24)


def attention() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return Net(lambda m, x: m.head(m.encoder(x)[:, 0]), encoder=encoder, head=nn.Linear(64, 5)), torch.randn(16, 48, 64)


def recurrent() -> tuple[nn.Module, Tensor]:
    lstm = nn.LSTM(64, 128, batch_first=True)
    return Net(lambda m, x: m.head(m.lstm(x)[0][:, -1]), lstm=lstm, head=nn.Linear(128, 5)), torch.randn(256, 12, 64)


def separable() -> tuple[nn.Module, Tensor]:
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1)]
    for _ in range(3):
        depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        layers += [depthwise, nn.BatchNorm2d(32), nn.ReLU6(), nn.Conv2d(32, 32, 1), nn.BatchNorm2d(32)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)), torch.randn(16, 3, 20, 20)


def texts() -> tuple[nn.Module, Tensor]:
    layers = nn.ModuleList(nn.Linear(96, 96) for _ in range(4))

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.embedding(x)
        for layer in m.layers:
            x = m.norm(x + functional.gelu(layer(x)))
        return m.head(x.mean(1))

    parts = {"embedding": nn.Embedding(200, 96), "layers": layers, "norm": nn.LayerNorm(96), "head": nn.Linear(96, 5)}
    return Net(forward, **parts), torch.randint(200, (32, 40))


def peak_allocated(call: Callable[[], object]) -> int:
    """Return the most bytes that torch's allocator held at a time, what kernels allocate within included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


@pytest.mark.parametrize("criterion", ["snip", "crop"])
@pytest.mark.parametrize(
    ("network", "share"),
    [(wide, 0.2), (convolutions, 0.2), (residual, 0.2), (separable, 0.2), (attention, 0.2), (texts, 0.2),
     (recurrent, 0.4)],
)  # fmt: skip
def test_the_estimate_is_near_to_what_is_allocated(
    network: Callable[[], tuple[nn.Module, Tensor]], share: float, criterion: str
) -> None:
    """Within a fifth. On shapes, torch's recurrent layers are other operations, and the estimate is less exact."""
    torch.manual_seed(0)
    model, x = network()
    batches = [(x, torch.randint(5, (len(x),)))]
    before = {name: t.clone() for name, t in model.state_dict().items()}

    def score(model: nn.Module, batches: Sequence[Any], group: object) -> object:
        return weight_scores(model, CRITERIA[criterion], cross_entropy, batches)

    state = torch.get_rng_state()
    estimate = estimate_memory(score, model, batches)
    assert torch.equal(torch.get_rng_state(), state)
    assert estimate is not None
    needed = peak_allocated(lambda: score(model, batches, None))
    assert estimate == pytest.approx(needed, rel=share)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def test_what_does_not_run_on_shapes_has_no_estimate() -> None:
    def score(model: nn.Module, batches: Sequence[Any], group: object) -> object:
        return model(torch.ones(2, 3)).numpy()

    assert estimate_memory(score, nn.Linear(3, 2), [None]) is None


@pytest.mark.parametrize("structured", [True, False])
def test_memory_is_asked_for_before_it_is_needed(structured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 5))
    x, y = torch.randn(1000, 32), torch.randint(5, (1000,))
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    monkeypatch.setattr(memory, "free_memory", lambda device: 300_000)
    expected = r"scoring needs about 0\.00\d+ GB, and 0\.0003 GB are free on cpu: take smaller batches to score on"
    with pytest.raises(NotEnoughMemoryError, match=expected):
        earlycrop.prune(model, cross_entropy, [(x, y)], structured=structured)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(random_state, torch.get_rng_state())
    earlycrop.prune(model, cross_entropy, [(x[:20], y[:20])], structured=structured)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much memory is free")
def test_free_memory_is_what_the_container_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "CONTAINER", tmp_path)
    free = free_memory(CPU)
    assert free is not None
    assert 0 < free <= free_memory_of_system()
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) is not None
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 1500000\ninactive_file 500000\n")
    assert free_memory(CPU) == 2_500_000


def free_memory_of_system() -> int:
    import psutil

    return psutil.virtual_memory().total


def test_nothing_is_estimated_where_memory_is_ample(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> int:
        raise AssertionError("an estimate takes long")

    monkeypatch.setattr(memory, "estimate_memory", never)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 5))
    assert earlycrop.prune(model, cross_entropy, [(torch.randn(4, 8), torch.randint(5, (4,)))]).achieved > 0
