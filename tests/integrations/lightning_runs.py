"""What the tests of Lightning's callback train: a small module, its data, the callback and the Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import earlycrop
from tests.integrations.callbacks import Small, options, points, transformers

QUIET = [
    pytest.mark.filterwarnings("ignore:this Bert.* was shrunk"),
    pytest.mark.filterwarnings("ignore:hardly anything is left of some layers"),  # queries and keys of a tiny network
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.usefixtures("without_type_checks"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*number of training batches"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*in eval mode"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*already been called"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


def lit_callback(method: str, **changed: Any) -> Any:
    pytest.importorskip("lightning.pytorch")
    from earlycrop.integrations.lightning import PruningCallback

    return PruningCallback(method, **{**options(method), **changed})


def lit_small() -> Any:
    lightning = pytest.importorskip("lightning.pytorch")

    class LitSmall(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Small()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.network(**batch).loss

        test_step = predict_step = training_step

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 1e-2)

    return LitSmall()


def lit_small_callback(method: str = "earlycrop-s", **changed: Any) -> Any:
    return lit_callback(method, **{"of": "weights", "limits": earlycrop.Limits(), "sparsity": 0.5, **changed})


def small_loader() -> Any:
    return DataLoader(points(), 4, collate_fn=transformers.default_data_collator)


def lit_trainer(where: Path, *callbacks: Any, epochs: int = 3, **changed: Any) -> Any:
    import lightning.pytorch as lightning

    saver = lightning.callbacks.ModelCheckpoint(where, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    given = {"logger": False, **changed}
    return lightning.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks, saver], enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **given,
    )  # fmt: skip
