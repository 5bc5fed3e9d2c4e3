"""What a LightningModule gathers, and what other callbacks average, beside the callback that prunes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.integrations.callbacks import CUT, size, weights
from tests.integrations.lightning_runs import QUIET, lit_small, lit_small_callback, lit_trainer, small_loader

pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings("ignore:.*lr_scheduler.step"),
    pytest.mark.filterwarnings("ignore:Swapping scheduler"),
    pytest.mark.filterwarnings("ignore:.*to be saved in checkpoint"),
]
AVERAGES = ["ema", "swa"]


def averaging(name: str) -> Any:
    lightning = pytest.importorskip("lightning.pytorch")
    if name == "swa":
        return lightning.callbacks.StochasticWeightAveraging(1e-3, swa_epoch_start=2)
    if not hasattr(lightning.callbacks, "EMAWeightAveraging"):
        pytest.skip("this version of Lightning has no EMAWeightAveraging")
    return lightning.callbacks.EMAWeightAveraging(decay=0.5)


def average_of(callback: Any) -> nn.Module:
    average: nn.Module = callback._average_model
    return getattr(average, "module", average)


def test_scoring_adds_nothing_to_what_the_module_gathers(tmp_path: Path) -> None:
    from torchmetrics import MeanMetric  # after Lightning, which loads what it needs

    class Gathering(type(lit_small())):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.losses: list[Tensor] = []
            self.mean, self.gathered = MeanMetric(), []

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss: Tensor = super().training_step(batch, index)
            self.losses.append(loss.detach())
            self.mean.update(loss)
            return loss

        def on_train_epoch_end(self) -> None:
            mean = float(torch.stack(self.losses).mean())
            self.gathered.append((len(self.losses), int(self.mean.weight), float(self.mean.compute()) - mean))
            self.losses.clear()
            self.mean.reset()

    module, callback = Gathering(), lit_small_callback(trigger=CUT)
    lit_trainer(tmp_path, callback).fit(module, small_loader())
    assert callback.pruner.event.epoch == CUT
    assert module.gathered == [(4, 4, pytest.approx(0, abs=1e-6))] * 3


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u"])
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_of_other_callbacks_are_cut_at_the_same_places(name: str, method: str, tmp_path: Path) -> None:
    import lightning.pytorch as lightning

    averages, callback, module = averaging(name), lit_small_callback(method), lit_small()
    equal: list[bool] = []

    class Before(lightning.Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == CUT - 1:
                average_of(averages).load_state_dict(weights(pl_module))

    class After(lightning.Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == CUT - 1:
                torch.testing.assert_close(weights(average_of(averages)), weights(pl_module), rtol=0, atol=0)
                equal.append(True)

    lit_trainer(tmp_path, Before(), callback, After(), averages, epochs=4).fit(module, small_loader())
    assert equal == [True]
    assert (size(module) < size(lit_small())) == (method == "earlycrop-s")
    torch.testing.assert_close(weights(module), weights(average_of(averages)), rtol=0, atol=0)  # transferred at the end
    if method == "earlycrop-u":
        removed = callback.pruner.event.masks.removed
        assert all(not p[removed[n]].any() for n, p in average_of(averages).named_parameters() if n in removed)


@pytest.mark.parametrize("name", AVERAGES)
def test_training_with_averages_goes_on_from_a_shrunk_checkpoint(name: str, tmp_path: Path) -> None:
    module = lit_small()
    lit_trainer(tmp_path, lit_small_callback(), averaging(name), epochs=4).fit(module, small_loader())
    again, averages = lit_small(), averaging(name)
    run = lit_trainer(tmp_path / "resumed", lit_small_callback(), averages, epochs=4)
    run.fit(again, small_loader(), ckpt_path=tmp_path / "epoch=2.ckpt", weights_only=False)
    torch.testing.assert_close(weights(again), weights(module), rtol=0, atol=0)
    assert not {p.data_ptr() for p in again.parameters()} & {p.data_ptr() for p in average_of(averages).parameters()}


@pytest.mark.parametrize("method", ["earlycrop-s", "earlycrop-u"])
def test_a_module_is_loaded_from_a_checkpoint_without_a_trainer(method: str, tmp_path: Path) -> None:
    from earlycrop.integrations.lightning import load_from_checkpoint

    module = lit_small()
    lit_trainer(tmp_path, lit_small_callback(method)).fit(module, small_loader())
    loaded = load_from_checkpoint(lit_small(), tmp_path / "epoch=2.ckpt")
    torch.testing.assert_close(weights(loaded), weights(module), rtol=0, atol=0)
    dense = load_from_checkpoint(lit_small(), tmp_path / "epoch=0.ckpt")
    assert size(dense) == size(lit_small())
    assert not {p.data_ptr() for p in loaded.parameters()} & {p.data_ptr() for p in module.parameters()}
    lit_trainer(tmp_path / "plain", epochs=1).fit(lit_small(), small_loader())
    with pytest.raises(ValueError, match=r"epoch=0.ckpt was written without a PruningCallback: call the module's own"):
        load_from_checkpoint(lit_small(), tmp_path / "plain" / "epoch=0.ckpt")
