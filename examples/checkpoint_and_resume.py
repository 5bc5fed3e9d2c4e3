"""Stop a training and resume it from a checkpoint: it ends as a training without a stop does."""

from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import nn
from torch.nn import functional

import earlycrop

EPOCHS = 8
torch.manual_seed(0)
inputs, labels = torch.randn(512, 20), torch.randint(0, 4, (512,))
batches = list(zip(inputs.split(64), labels.split(64), strict=True))


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def make():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def make_pruner(model, optimizer):
    return earlycrop.Pruner(model, optimizer, loss, "earlycrop-s", sparsity=0.8, epochs=EPOCHS)


def train(model, optimizer, pruner, until, folder):
    """Train up to an epoch, and write a checkpoint after each."""
    if pruner.epoch < 0:
        pruner.step(batches)
    while pruner.epoch < until:
        for batch in batches:
            optimizer.zero_grad()
            loss(model, batch).backward()
            optimizer.step()
        pruner.step(batches)
        earlycrop.save(model, folder)
        state = {"optimizer": optimizer.state_dict(), "pruner": pruner.state_dict()}
        earlycrop.save_state(state, folder / "state.safetensors")


def resume(folder):
    """Make everything anew, and load the checkpoint: the model first, as it changes its shapes."""
    model = earlycrop.load(folder, make())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    pruner = make_pruner(model, optimizer)
    state = earlycrop.load_state(folder / "state.safetensors")
    optimizer.load_state_dict(state["optimizer"])
    pruner.load_state_dict(state["pruner"])
    return model, optimizer, pruner


def run(stop):
    folder, model = Path(mkdtemp()), make()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    pruner = make_pruner(model, optimizer)
    train(model, optimizer, pruner, stop, folder)
    if stop < EPOCHS:
        model, optimizer, pruner = resume(folder)
        train(model, optimizer, pruner, EPOCHS, folder)
    print(f"stopped after epoch {stop}: {pruner}")
    return model


uninterrupted = run(stop=EPOCHS)
for epoch in (2, 6):
    stopped = run(stop=epoch)
    difference = max(
        float((a - b).detach().abs().max())
        for a, b in zip(uninterrupted.parameters(), stopped.parameters(), strict=True)
    )
    print(f"largest difference of a weight: {difference:.1e}")
    assert difference < 1e-6
