"""The callbacks of transformers and Lightning, whose trainers put the model and its batches on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from tests.integrations.callbacks import Small, options, points, transformers
from tests.integrations.lightning_runs import QUIET, lit_small, lit_small_callback, small_loader

pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore:.*pin_memory")]
METHODS = ["earlycrop-s", "earlycrop-u"]


def trainer(folder: Path, model: nn.Module, callback: Any, data: Any, **changed: Any) -> Any:
    given = {
        "output_dir": str(folder), "num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 3e-3,
        "report_to": [], "disable_tqdm": True, "save_strategy": "epoch", "logging_strategy": "no",
        "optim": "adamw_torch", "remove_unused_columns": False, **changed,
    }  # fmt: skip
    return transformers.Trainer(
        model, transformers.TrainingArguments(**given), train_dataset=data, callbacks=[callback]
    )


def callback_of(method: str, **changed: Any) -> Any:
    pytest.importorskip("accelerate")
    from earlycrop.integrations.transformers import PruningCallback

    given = {**options(method), "of": "weights", "limits": earlycrop.Limits(), "sparsity": 0.5, **changed}
    return PruningCallback(method, **given)


@pytest.mark.parametrize("method", METHODS)
def test_a_trainer_of_transformers(method: str, device: torch.device, tmp_path: Path) -> None:
    model, callback = Small(), callback_of(method)
    trainer(tmp_path, model, callback, points()).train()
    assert {p.device.type for p in model.parameters()} == {device.type}
    assert callback.pruner.event.achieved >= 0.45

    checkpoint = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-2]
    again, callback = Small(), callback_of(method)
    callback.resume(again, checkpoint)
    trainer(tmp_path, again, callback, points()).train(resume_from_checkpoint=str(checkpoint))
    torch.testing.assert_close(list(again.parameters()), list(model.parameters()), rtol=1e-4, atol=1e-5)


class Boxes(nn.Module):
    """A model that is given targets as models of detection are: a list of dicts of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor, labels: list[dict[str, Tensor]]) -> Any:
        boxes = self.layers(x)
        losses = [(box - target["boxes"]).square().mean() for box, target in zip(boxes, labels, strict=True)]
        return transformers.utils.ModelOutput(loss=torch.stack(losses).mean(), logits=boxes)


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    return {"x": torch.stack([e["x"] for e in examples]), "labels": [{"boxes": e["x"][:4]} for e in examples]}


@pytest.mark.parametrize("method", METHODS)
def test_nested_targets_are_moved_to_the_device(method: str, device: torch.device, tmp_path: Path) -> None:
    model, callback = Boxes(), callback_of(method)
    trained = trainer(tmp_path, model, callback, points(), save_strategy="no")
    trained.data_collator = collate
    trained.train()
    assert callback.pruner.event is not None
    assert {p.device.type for p in model.parameters()} == {device.type}


@pytest.mark.parametrize("method", METHODS)
def test_lightning(method: str, device: torch.device, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    model, callback = lit_small(), lit_small_callback(method)
    given = {"max_epochs": 3, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    saver = lightning.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    fit = lightning.Trainer(accelerator="auto", devices=1, callbacks=[callback, saver], **given)
    fit.fit(model, small_loader())
    assert fit.strategy.root_device.type == device.type
    assert callback.pruner.event is not None
    state = torch.load(sorted(tmp_path.glob("*.ckpt"))[-1], map_location="cpu", weights_only=False)
    weights = {name: t.cpu() for name, t in model.state_dict().items()}
    torch.testing.assert_close(state["state_dict"], weights)
