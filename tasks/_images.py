"""Images and their labels from where people have them: the hub, parquet, a folder a class, torchvision's archives.

Everything is lazy: an image is decoded when it is asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tasks._sentences import first_line
from tasks._tables import local, quiet
from tasks._torchvision import load

TEST = ("test", "valid", "validation", "val")
"""What the split that is evaluated is called, in the order of preference."""
FORMATS = (
    "parquet files (train*.parquet, test*.parquet), a folder a class (train/CLASS/*, val/CLASS/*), or torchvision's "
    "own CIFAR archives"
)


class DataError(ValueError):
    """There are no data where they were looked for, or they are not what they should be."""


@dataclass(frozen=True)
class Images:
    """A split of a data set."""

    labels: np.ndarray
    """(N,) int64."""
    image: Callable[[int], Image.Image]
    """The i-th image, as it is stored."""
    classes: tuple[str, ...]
    name: str
    """What the data set calls the split."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether there are images, each with a label: a contest's test split has -1 for all."""
        return len(self) > 0 and bool(self.labels.min() >= 0)

    def rgb(self, i: int) -> Image.Image:
        """The i-th image in three channels; raises DataError, with its place, for one that cannot be decoded."""
        try:
            return self.image(i).convert("RGB")
        except (OSError, UnidentifiedImageError, SyntaxError) as error:
            raise DataError(f"image {i} of the {self.name} split cannot be read ({error}): mend or remove it") from None

    def part(self, indices: np.ndarray) -> Images:
        """The images at ``indices``, in their order."""
        image, chosen = self.image, np.asarray(indices)
        return replace(self, labels=self.labels[chosen], image=lambda i: image(int(chosen[i])))

    def pixels(self, most_bytes: float) -> Tensor | None:
        """All images, decoded: (N, 3, H, W) uint8; None where they differ in size or would take over ``most_bytes``."""
        width, height = self.rgb(0).size
        if len(self) * 3 * width * height > most_bytes:
            return None
        pixels = torch.empty(len(self), height, width, 3, dtype=torch.uint8)
        for i in range(len(self)):
            image = self.rgb(i)
            if image.size != (width, height):
                return None
            pixels[i] = torch.from_numpy(np.array(image))
        return pixels.permute(0, 3, 1, 2)


def read(data: str) -> tuple[Images, Images]:
    """The split to train on and the one to evaluate: of a local folder, or of a data set on the hub.

    Raises:
        DataError: the data are not there, or not in a known form.
    """
    folder = Path(data)
    if folder.is_dir():
        train, test = _local(folder)
    elif local(data):
        raise DataError(f"there is no folder {data}: --data takes a data set on the hub, or a folder of {FORMATS}")
    else:
        train, test = _hub(data)
    for split in (train, test):
        if not split.labelled:
            raise DataError(f"{data}: the split {split.name} has no images, or images without a label")
    if train.classes != test.classes:
        raise DataError(f"{data}: the splits {train.name} and {test.name} have different classes")
    return train, test


def _local(folder: Path) -> tuple[Images, Images]:
    for archive, kind in (("cifar-10", "CIFAR10"), ("cifar-100", "CIFAR100")):
        if (found := sorted(folder.glob(f"{archive}-*"))) and found[0].is_dir():
            return _archive(kind, folder, True), _archive(kind, folder, False)
        if found:
            raise DataError(f"{found[0]} is packed: unpack it there (tar xf {found[0].name})")
    if files := sorted(folder.rglob("*.parquet")):
        return _parquet(folder, [f for f in files if not f.name.startswith(".")])
    if (folder / "train").is_dir():
        test = next((folder / name for name in TEST if (folder / name).is_dir()), None)
        if test is None:
            raise DataError(f"{folder} has a folder train, and none to evaluate on: add {' or '.join(TEST)}")
        return _folders(folder / "train"), _folders(test)
    raise DataError(f"{folder} holds no images in a known form: put there {FORMATS}")


def _archive(kind: str, folder: Path, train: bool) -> Images:
    datasets: Any = load("torchvision.datasets")
    try:
        held = getattr(datasets, kind)(folder, train=train, download=False)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise DataError(f"{kind}'s files in {folder} are not whole ({error}): unpack its archive there anew") from None
    pixels = held.data
    return Images(
        np.asarray(held.targets, dtype=np.int64), lambda i: Image.fromarray(pixels[i]), tuple(held.classes),
        "train" if train else "test",
    )  # fmt: skip


def _folders(folder: Path) -> Images:
    datasets: Any = load("torchvision.datasets")
    try:
        held = datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: every class needs a folder with images ({first_line(error)})") from None
    paths = [path for path, _ in held.samples]
    return Images(
        np.asarray(held.targets, dtype=np.int64), lambda i: Image.open(paths[i]), tuple(held.classes), folder.name
    )


def _parquet(folder: Path, files: list[Path]) -> tuple[Images, Images]:
    import datasets

    def of(name: str) -> list[str]:
        return [str(f) for f in files if f.name.startswith(name) or f.parent.name == name]

    name = next((name for name in TEST if of(name)), None)
    if not of("train") or name is None:
        raise DataError(f"{folder} needs parquet files to train on and to evaluate: train*.parquet and test*.parquet")
    with quiet():
        try:
            held = datasets.load_dataset("parquet", data_files={"train": of("train"), name: of(name)})
        except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
            cause = first_line(error.__cause__ or error)
            raise DataError(f"the parquet files in {folder} cannot be read ({cause}): fetch them anew") from None
    return _table(held["train"], str(folder), "train"), _table(held[name], str(folder), name)


def _hub(name: str) -> tuple[Images, Images]:
    import datasets

    try:
        held = datasets.load_dataset(name)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:  # no network is an OSError
        raise DataError(
            f"the data set {name} is neither in the cache nor within reach ({first_line(error)}): go online once, or "
            f"give --data a folder of {FORMATS}"
        ) from None
    tables = {split: _table(held[split], name, split) for split in ("train", *TEST) if split in held}
    split = next((s for s in TEST if s in tables and tables[s].labelled), None)
    if "train" not in tables or split is None:
        raise DataError(f"{name} has the splits {', '.join(held)}: train and one of {', '.join(TEST)} are needed")
    return tables["train"], tables[split]


def _table(held: Any, where: str, name: str) -> Images:
    """A split as ``datasets`` has it: its column of images and its (finest) column of class labels."""
    from datasets import ClassLabel
    from datasets import Image as ImageColumn

    pictures = [column for column, kind in held.features.items() if isinstance(kind, ImageColumn)]
    labels = [column for column, kind in held.features.items() if isinstance(kind, ClassLabel)]
    if not pictures or not labels:
        raise DataError(f"{where} needs a column of images and one of class labels, and has {', '.join(held.features)}")
    label = max(labels, key=lambda column: held.features[column].num_classes)
    encoded = held.cast_column(pictures[0], ImageColumn(decode=False))

    def image(i: int) -> Image.Image:
        stored = encoded[i][pictures[0]]
        return Image.open(stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"]))

    targets = np.asarray(held.with_format("numpy")[label][:], dtype=np.int64)
    return Images(targets, image, tuple(held.features[label].names), name)


def held_out(images: Images, share: float) -> tuple[Images, Images]:
    """The images to train on, and a ``share`` of them to validate on: the same for every seed of a run."""
    order = np.random.default_rng(0).permutation(len(images))
    count = round(share * len(images))
    return images.part(np.sort(order[count:])), images.part(np.sort(order[:count]))


def first(images: Images, number: int) -> Images:
    """At most ``number`` images (0: all), drawn alike for every seed."""
    if not 0 < number < len(images):
        return images
    return images.part(np.sort(np.random.default_rng(1).permutation(len(images))[:number]))
