"""Prune a network early in a training loop of your own. Needs the library alone, and takes a few seconds."""

import torch
from torch import nn
from torch.nn import functional

import earlycrop

torch.manual_seed(0)
centres = torch.randn(10, 64)  # made-up data: ten classes, each around a point
labels = torch.randint(0, 10, (5120,))
inputs = centres[labels] + 2.5 * torch.randn(5120, 64)
batches = list(zip(inputs[:4096].split(64), labels[:4096].split(64), strict=True))
model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
optimizer = torch.optim.SGD(model.parameters(), 0.02)


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


pruner = earlycrop.Pruner(model, optimizer, loss, method="earlycrop-s", sparsity=0.9, epochs=20)
pruner.step(batches)  # before training: methods such as SNIP and CroP prune here
for _ in range(pruner.total_epochs):
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()
    if event := pruner.step(batches):  # after every epoch: EarlyCroP prunes when its trigger fires
        print(event)
accuracy = (model(inputs[4096:]).argmax(1) == labels[4096:]).float().mean()
print(f"test accuracy {accuracy:.1%}, {sum(p.numel() for p in model.parameters()):,} parameters")
