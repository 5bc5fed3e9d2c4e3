"""Images and their labels from where people have them: the hub, parquet, a folder a class, torchvision's archives.

Everything is lazy: an image is decoded when it is asked for.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from earlycrop.utils.torchvision_compat import load_torchvision
from tasks.data import tables
from tasks.runner.errors import first_line
from tasks.runner.files import existing_file, reading
from tasks.runner.store import digest

TEST = ("test", "valid", "validation", "val")
"""What the split that is evaluated is called, in the order of preference."""
ARCHIVES = {"CIFAR-10": "CIFAR10", "CIFAR-100": "CIFAR100"}
"""Data set -> torchvision's class that reads its archive, whose name begins as the data set's."""
FORMATS = (
    "parquet files (train.parquet, test.parquet, or shards), a folder a class (train/CLASS/*, val/CLASS/*), or "
    "torchvision's own CIFAR archives"
)


@dataclass(frozen=True)
class Images:
    """A split of a data set."""

    labels: np.ndarray
    """(N,) int64."""
    rgb: Callable[[int], Image.Image]
    """The i-th image in three channels; raises ValueError, with its place, for one that cannot be decoded."""
    classes: tuple[str, ...]
    name: str
    """What the data set calls the split."""
    content: Callable[[], str]
    """Tells its files from others with the same labels, without decoding them."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> bool:
        """Whether there are images, each with a label: a contest's test split has -1 for all."""
        return len(self) > 0 and bool(self.labels.min() >= 0)

    def part(self, indices: np.ndarray) -> Images:
        """The images at ``indices``, in their order."""
        rgb, chosen = self.rgb, np.asarray(indices)
        return replace(self, labels=self.labels[chosen], rgb=lambda i: rgb(int(chosen[i])))

    def pixels(self, max_bytes: float) -> Tensor | None:
        """All images, decoded: (N, 3, H, W) uint8; None where they differ in size or would take over ``max_bytes``."""
        width, height = self.rgb(0).size
        if len(self) * 3 * width * height > max_bytes:
            return None
        pixels = torch.empty(len(self), height, width, 3, dtype=torch.uint8)
        for i in range(len(self)):
            image = self.rgb(i)
            if image.size != (width, height):
                return None
            pixels[i] = torch.from_numpy(np.array(image))
        return pixels.permute(0, 3, 1, 2)


def _images(
    labels: Any, image: Callable[[int], Image.Image], classes: Sequence[str], name: str, content: Callable[[], str]
) -> Images:
    """A split of which ``image`` opens the i-th image as it is stored.

    Raises:
        ValueError: a label is none of the classes, and not -1, which stands for no label.
    """

    def rgb(i: int) -> Image.Image:
        place = f"image {i} of the {name} split"
        with reading(place, "mend or remove it"):
            stored = image(i)  # of images with very many pixels Pillow says how many it allows
            stored.load()
        with stored:
            return three_channels(stored, place)

    numbers = _numbers(labels, len(classes), name)
    return Images(numbers, rgb, tuple(classes), name, content)


def _numbers(labels: Any, classes: int, name: str) -> np.ndarray:
    """Return labels as int64; raise ValueError for the first one that is neither a class nor -1."""
    given = np.asarray(labels)
    numeric = np.issubdtype(given.dtype, np.number)  # a row without a label makes floats of all, with NaN
    with np.errstate(invalid="ignore"):
        wrong = ~((given >= -1) & (given < classes) & (given == np.floor(given))) if numeric else np.ones(len(given))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"the label of row {row} of the {name} split is {given[row]}, and there are classes 0 to {classes - 1}: "
            "mend or remove that row"
        )
    return given.astype(np.int64)


def three_channels(image: Image.Image, place: str) -> Image.Image:
    """Return an image in red, green and blue of 8 bits; 16 bits of grey are scaled.

    Raises:
        ValueError: its values have no known range, or cannot be read; the sentence names its ``place``.
    """
    if image.mode.startswith("I;16"):  # convert would clip them at 255
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        file = f" ({name})" if (name := getattr(image, "filename", "")) else ""
        raise ValueError(f"{place}{file} has values of 32 bits, mode {image.mode}: save it with 8 or 16 bits a channel")
    with reading(place, "mend or remove it"):
        return image.convert("RGB")


def read(data: str, dataset: str) -> tuple[Images, Images]:
    """The split to train on and the one to evaluate: of a local folder, or of a data set on the hub.

    Raises:
        ValueError: the data are not there, not in a known form, or by their name another data set than ``dataset``.
    """
    train, test = _read_folder(Path(data), dataset) or _read_tables(data)
    for split in (train, test):
        if not split.labelled:
            raise ValueError(f"{data}: the split {split.name} has no images, or images without a label")
    if train.classes != test.classes:
        raise ValueError(f"{data}: the splits {train.name} and {test.name} have different classes")
    return train, test


def _read_folder(folder: Path, dataset: str) -> tuple[Images, Images] | None:
    """The splits of CIFAR archives or of a folder a class; None for a folder of parquet files, and for no folder."""
    archives = {name: files for name in ARCHIVES if (files := sorted(folder.glob(f"{name.lower()}-*")))}
    if dataset in archives:
        first = archives[dataset][0]
        if not first.is_dir():
            raise ValueError(f"{first} is packed: unpack it there (tar xf {first.name})")
        return _archive(ARCHIVES[dataset], folder, True), _archive(ARCHIVES[dataset], folder, False)
    if archives:
        raise ValueError(f"{folder} holds {' and '.join(archives)}, and the task is {dataset}: give another folder")
    if not folder.is_dir() or any(folder.rglob("*.parquet")):
        return None
    if (folder / "train").is_dir():
        test = next((folder / name for name in TEST if (folder / name).is_dir()), None)
        if test is None:
            raise ValueError(f"{folder} has a folder train, and none to evaluate on: add {' or '.join(TEST)}")
        return _folders(folder / "train"), _folders(test)
    raise ValueError(f"{folder} holds no images in a known form: put there {FORMATS}")


def _archive(kind: str, folder: Path, train: bool) -> Images:
    datasets: Any = load_torchvision("torchvision.datasets")
    try:
        archive = getattr(datasets, kind)(folder, train=train, download=False)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{kind}'s files in {folder} are not whole ({error}): unpack its archive there anew") from None
    pixels = archive.data
    name = "train" if train else "test"
    return _images(archive.targets, lambda i: Image.fromarray(pixels[i]), archive.classes, name, lambda: digest(pixels))


def _folders(folder: Path) -> Images:
    datasets: Any = load_torchvision("torchvision.datasets")
    try:
        image_folder = datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: every class needs a folder with images ({first_line(error)})") from None
    paths = [path for path, _ in image_folder.samples]

    def content() -> str:
        return digest(*(f"{Path(path).relative_to(folder)} {Path(path).stat().st_size}\n" for path in paths))

    def image(i: int) -> Image.Image:
        return Image.open(existing_file(paths[i]))

    return _images(image_folder.targets, image, image_folder.classes, folder.name, content)


def _read_tables(data: str) -> tuple[Images, Images]:
    """The split to train on, and the first of ``TEST`` that has labels: of parquet files, or of the hub."""
    present = [name for name in TEST if tables.split_files(Path(data), [name])] or TEST[:1]
    names = {name: [name] for name in ("train", *present)}
    splits, content = tables.read(data, names, FORMATS), partial(tables.content, data, names)
    images = {split: _of_table(splits[split], data, split, content) for split in ("train", *TEST) if split in splits}
    split = next((name for name in TEST if name in images and images[name].labelled), None)
    if "train" not in images or split is None:
        raise ValueError(
            f"{data} has the splits {', '.join(splits)}: train and one of {', '.join(TEST)} are needed, with labels"
        )
    return images["train"], images[split]


def _of_table(table: Any, where: str, name: str, content: Callable[[], str]) -> Images:
    """A split as ``datasets`` has it: its column of images and its (finest) column of class labels.

    A row of somebody's parquet file may name any file of this machine as its image, which is not opened.
    """
    from datasets import ClassLabel
    from datasets import Image as ImageColumn

    is_folder = Path(where).is_dir()

    pictures = [column for column, kind in table.features.items() if isinstance(kind, ImageColumn)]
    labels = [column for column, kind in table.features.items() if isinstance(kind, ClassLabel)]
    if not pictures or not labels:
        raise ValueError(
            f"{where} needs a column of images and one of class labels, and has {', '.join(table.features)}"
        )
    label = max(labels, key=lambda column: table.features[column].num_classes)
    encoded = table.cast_column(pictures[0], ImageColumn(decode=False))

    def image(i: int) -> Image.Image:
        stored = encoded[i][pictures[0]]
        if stored is None:
            raise ValueError("the row has none")
        if stored["bytes"] is None and is_folder:
            raise ValueError(f"the row names the file {stored['path']} instead, which is not followed")
        return Image.open(stored["path"] if stored["bytes"] is None else BytesIO(stored["bytes"]))

    return _images(table.with_format("numpy")[label][:], image, table.features[label].names, name, content)


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
