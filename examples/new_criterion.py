"""Prune by a criterion of your own: a function of the weight, its gradient and the Hessian-gradient product."""

import torch
from torch import nn
from torch.nn import functional

import earlycrop


def relative(w, g, hg):
    """|w g| / |w|: the gradient alone, whatever the size of the weight."""
    return g.abs()


torch.manual_seed(0)
inputs, labels = torch.randn(512, 20), torch.randint(0, 4, (512,))
batches = list(zip(inputs.split(64), labels.split(64), strict=True))
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
criterion = earlycrop.Criterion(relative, order=1)  # order 1: it needs g, and no Hg


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


# once, now
print(earlycrop.prune(model, loss, batches[:5], criterion, sparsity=0.5, optimizer=optimizer))

# or in training, as a method of your own
method = earlycrop.Method(criterion, structured=True)
pruner = earlycrop.Pruner(model, optimizer, loss, method, sparsity=0.5, epochs=3)
print(pruner.step(batches))
