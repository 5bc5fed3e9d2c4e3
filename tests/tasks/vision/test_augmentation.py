"""Crops, mirrors and rotations by hand, and images that workers decode."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from earlycrop.utils.torchvision_compat import load_torchvision
from tasks import cifar10
from tasks.data.batches import generator, statistics
from tasks.vision import classification
from tasks.vision.augmentation import Augmentation, prepared, shift_and_flip, turn_and_crop
from tasks.vision.feed import InMemory, Streamed
from tasks.vision.images import read
from tests.tasks.tiny_data import parquet


def test_windows_and_mirrors_by_hand() -> None:
    """Each image is found, shifted, maybe mirrored, in the padded one, at more than one place and both ways."""
    images = torch.arange(1, 401, dtype=torch.uint8).reshape(1, 1, 20, 20).expand(64, 3, 20, 20)
    padded = functional.pad(images[0], [2] * 4)
    seen = set()
    for image in shift_and_flip(images, 2, True, generator((0,))):
        windows = {(y, x): padded[:, y : y + 20, x : x + 20] for y in range(5) for x in range(5)}
        matches = [
            (*place, mirrored)
            for place, window in windows.items()
            for mirrored in (False, True)
            if torch.equal(image, window.flip(-1) if mirrored else window)
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len({y for y, _, _ in seen}) == len({x for _, x, _ in seen}) == 5
    assert {mirrored for _, _, mirrored in seen} == {False, True}
    assert torch.equal(shift_and_flip(images, 0, False, generator((0,))), images)


def test_turning_by_a_quarter_and_cropping_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 9, 9)

    monkeypatch.setattr(torch, "rand", lambda *size, **options: torch.ones(size))
    turned = turn_and_crop(images, 90, 1.0, generator((0,)))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), rtol=0, atol=1e-5)


def test_crops_stay_inside() -> None:
    """Where an image is one colour, so is every crop of it: nothing of the black around it comes in."""
    images = torch.full((200, 3, 16, 16), 7.0)
    torch.testing.assert_close(turn_and_crop(images, 0, 0.1, generator((0,))), images, rtol=0, atol=1e-4)


def test_images_are_normalised_by_the_training_split() -> None:
    pixels = torch.randint(256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator((0,)))
    mean, deviation = statistics(pixels)
    values = pixels.double()
    torch.testing.assert_close(mean.flatten().double(), values.mean((0, 2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(deviation.flatten().double(), values.std((0, 2, 3), correction=0), rtol=1e-6, atol=0)
    batch = prepared(pixels, mean, deviation, 8)
    torch.testing.assert_close(batch.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    assert prepared(pixels, mean, deviation, 16).shape == (50, 3, 16, 16)


def test_streamed_images_are_the_held_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded by workers, in the same order: as they are, the same numbers; to train on, other crops."""
    v2 = load_torchvision("torchvision.transforms.v2")
    parquet(tmp_path, 10, 32, {"train": 40, "test": 10})
    train, _ = read(str(tmp_path), "CIFAR-10")
    pixels = train.pixels(1e9)
    assert pixels is not None
    in_memory, streamed = InMemory(pixels, train.labels, 32, statistics(pixels)), Streamed(train, 32)
    cpu, augmentation = torch.device("cpu"), Augmentation(flip=True, padding=2)
    for key in ((0, 1, 0), (0, 2, 0)):
        labels = [
            [labels.tolist() for _, labels in feed.shuffled(16, cpu, key, augmentation)]
            for feed in (in_memory, streamed)
        ]
        assert labels[0] == labels[1]
        assert [len(batch) for batch in labels[0]] == [16, 16]
    transform = v2.Compose([v2.Resize(36), v2.CenterCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for i, image in enumerate(torch.cat([images for images, _ in streamed.plain(torch.arange(40), 16, cpu)])):
        torch.testing.assert_close(image, (transform(train.rgb(i)) - mean) / deviation)
    one, two = (
        torch.cat([images for images, _ in streamed.shuffled(16, cpu, (0, 1, 0), augmentation)]) for _ in range(2)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert one.shape == (32, 3, 32, 32)
    assert sum(len(labels) for _, labels in streamed.plain(torch.arange(40), 16, cpu)) == 40
    monkeypatch.setattr(classification, "memory_budget", lambda device: 1.0)
    task = cifar10.make(cifar10.Options(data=str(tmp_path), network="resnet8-cifar", batch=8))
    assert isinstance(task.training, Streamed)  # type: ignore[attr-defined]
