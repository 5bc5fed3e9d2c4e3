"""Prune a LightningModule in a Trainer of Lightning. Needs ``pip install '.[lightning]'``."""

import logging
from tempfile import mkdtemp

import lightning
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import earlycrop
from earlycrop.integrations.lightning import PruningCallback

logging.basicConfig(format="%(message)s")
logging.getLogger("earlycrop").setLevel(logging.INFO)


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, index):
        inputs, labels = batch
        return functional.cross_entropy(self.network(inputs), labels)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-3, fused=True)


torch.manual_seed(0)
centres, labels = torch.randn(10, 64), torch.randint(0, 10, (1024,))
loader = DataLoader(TensorDataset(centres[labels] + 2 * torch.randn(1024, 64), labels), 64, shuffle=True)
limits = earlycrop.Limits(floors={"*": 0.05})
callback = PruningCallback("earlycrop-s", sparsity=0.8, limits=limits)
trainer = lightning.Trainer(
    max_epochs=8, accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
    default_root_dir=mkdtemp(),
)  # fmt: skip
trainer.fit(Module(), loader)
print(callback.pruner.event)
