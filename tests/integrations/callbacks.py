"""Networks, data and settings that the tests of both callbacks train by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import earlycrop
from earlycrop.utils.torchvision_compat import load_torchvision

transformers: Any = load_torchvision("transformers")
SLOW = pytest.mark.slow
EPOCHS, CUT, COUNT = 4, 2, 44
METHODS: dict[str, dict[str, Any]] = {
    "earlycrop-s": {"of": "nodes", "sparsity": 0.3}, "earlycrop-u": {}, "magnitude-s": {"of": "nodes", "sparsity": 0.3},
}  # fmt: skip
OPTIONS: dict[str, Any] = {
    "sparsity": 0.4, "rounds": 2, "limits": earlycrop.Limits(exclude=["*embed*"]), "score_batches": 2,
}  # fmt: skip


def options(method: str) -> dict[str, Any]:
    return {**OPTIONS, **METHODS[method], "trigger": CUT}


def fresh(folder: Path, dropout: float = 0.1) -> Any:
    torch.manual_seed(0)
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, **drop)


def examples() -> list[dict[str, Any]]:
    """Sequences of twelve tokens of which the second tells the label."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(5, 40, (COUNT, 12), generator=random)
    tokens[:, 1] = torch.where(tokens[:, 1] % 2 == 0, 10, 11)
    return [{"input_ids": t, "attention_mask": torch.ones_like(t), "labels": int(t[1]) - 10} for t in tokens]


def loss(model: nn.Module, batch: Any) -> Tensor:
    return model(**batch).loss


def scored() -> list[Any]:
    return list(DataLoader(examples(), 8, collate_fn=transformers.default_data_collator))[:2]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in model.state_dict().items()}


def require_live(optimizer: Any, model: nn.Module) -> None:
    """The optimizer has every parameter of the model, with its state, and no other."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters()}
    for p in parameters:
        assert optimizer.state[p]["exp_avg"].shape == p.shape


class Small(nn.Module):
    """A network that a Trainer trains in milliseconds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.layers(x)
        return transformers.utils.ModelOutput(loss=nn.functional.cross_entropy(logits, labels), logits=logits)


def points() -> list[dict[str, Any]]:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": t, "labels": int(t[0] > 0)} for t in x]


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
