"""Prune a trained network once, now, within limits, and train it a little more."""

import torch
from torch import nn
from torch.nn import functional

import earlycrop

torch.manual_seed(0)
images, labels = torch.randn(512, 3, 16, 16), torch.randint(0, 4, (512,))
images += torch.nn.functional.one_hot(labels, 4).float()[:, :3, None, None]  # the colour tells the class
batches = list(zip(images.split(32), labels.split(32), strict=True))
model = nn.Sequential(
    *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
    *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
    *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 4)),
)
optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)


def loss(model, batch):
    return functional.cross_entropy(model(batch[0]), batch[1])


def train():
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        loss(model, batch).backward()
        optimizer.step()


def accuracy():
    model.eval()
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


train()
print(earlycrop.trace(model, images[:2]))  # look before you cut
before = accuracy()
limits = earlycrop.Limits(floors={"*": 0.25}, multiple=8)
event = earlycrop.prune(model, loss, batches[:5], sparsity=0.5, of="macs", optimizer=optimizer, limits=limits)
print(event)
after = accuracy()
train()
print(f"accuracy {before:.1%}, after the cut {after:.1%}, after another epoch {accuracy():.1%}")
