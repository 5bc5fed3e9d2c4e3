"""A few examples of each task's data, in the formats that people have them in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


def pictures(count: int, side: int, classes: int) -> tuple[list[Image.Image], list[int]]:
    """Noise around a grey that tells the class."""
    random = np.random.default_rng(0)
    labels = [i % classes for i in range(count)]
    noise = random.integers(0, 40, (count, side, side, 3))
    grey = np.array(labels)[:, None, None, None] * (200 // classes)
    return [Image.fromarray(pixels) for pixels in (noise + grey).astype(np.uint8)], labels


def parquet(folder: Path, classes: int, side: int, counts: dict[str, int], label: str = "label") -> None:
    """Parquet files as the hub has them: a column of encoded images, one of class labels."""
    import datasets

    datasets.disable_progress_bars()
    for split, count in counts.items():
        images, labels = pictures(count, side, classes)
        kinds = {"img": datasets.Image(), label: datasets.ClassLabel(names=[f"kind {i}" for i in range(classes)])}
        columns = {"img": images, label: labels}
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, datasets.Features(kinds)).to_parquet(folder / f"{split}.parquet")


def text(folder: Path, words: int = 400) -> None:
    """Lines of eight words in which each tells the next, as the files of the Penn Treebank are."""
    for split, seed in (("train", 0), ("valid", 1), ("test", 2)):
        starts = np.random.default_rng(seed).integers(0, 12, words // 8)
        lines = [" " + " ".join(f"w{(start + 5 * i) % 12}" for i in range(8)) + " \n" for start in starts]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"ptb.{split}.txt").write_text("".join(lines))


WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "is", "not", "here", "good", "bad", "##s", "##ing")


def sentences(folder: Path, task: str = "rte", counts: tuple[int, int] = (40, 20)) -> dict[str, Any]:
    """A task of GLUE of which the word "good" tells the label, and a tiny BERT beside it; the option that names it."""
    sentence_tables(folder, task, counts)
    return {"model": str(tiny_bert(folder / "bert"))}


def sentence_tables(folder: Path, task: str, counts: tuple[int, int]) -> None:
    """Write the tables of a task of GLUE."""
    import datasets

    from tasks.text.glue_dataset import GLUE

    kind = GLUE[task]
    datasets.disable_progress_bars()
    for split, count in zip(("train", *kind.evaluated), (counts[0], counts[1], counts[1]), strict=False):
        random = np.random.default_rng(len(split))
        labels = [int(i) % max(2, kind.classes) for i in random.permutation(count)]
        rows: dict[str, Any] = {"label": labels if kind.classes else [5.0 * label for label in labels]}
        for column in kind.texts:
            picked = [random.choice(WORDS[:10], random.integers(2, 9)) for _ in labels]
            rows[column] = [
                " ".join([*words, *["good"] * label, "mats."]) for words, label in zip(picked, labels, strict=True)
            ]
        folder.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"{split}.parquet")


def tiny_bert(folder: Path, **changed: Any) -> Path:
    """A BERT of two layers with four heads and 32 neurons each, and its WordPiece vocabulary, as a hub's folder."""
    from earlycrop.utils.torchvision_compat import load_torchvision

    transformers: Any = load_torchvision("transformers")

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *".,?", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=128)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    sizes |= {"vocab_size": len(vocabulary), "max_position_embeddings": 128, **changed}
    config = transformers.BertConfig(**sizes)
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def rooms(count: int, height: int = 48, width: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, H, W) of which the brightness tells the depth (N, H, W), with noise, and a corner that has none."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / width
    slope = random.uniform(-1, 1, (2, count, 1, 1))
    depth = (2.5 + slope[0] * x + slope[1] * y).astype(np.float32)
    images = 60 * depth[:, None] + random.integers(-8, 8, (count, 3, height, width))
    depth[:, -height // 8 :, -width // 8 :] = 0
    return images.clip(0, 255).astype(np.uint8), depth


def scenes(folder: Path, train: int = 12, val: int = 6) -> None:
    """HDF5 files of one pair each, in a folder a scene, as NYU Depth v2 is handed round."""
    import h5py

    for split, scene, count, seed in (("train", "den_1", train, 0), ("train", "attic", 4, 1), ("val", "hall", val, 2)):
        (folder / split / scene).mkdir(parents=True, exist_ok=True)
        for i, (image, depth) in enumerate(zip(*rooms(count, seed=seed), strict=True)):
            with h5py.File(folder / split / scene / f"{i:05d}.h5", "w") as file:
                file["rgb"] = image
                file.create_dataset("depth", data=depth, chunks=(12, 16), compression="gzip")


TINY_DATA: dict[str, Callable[[Path], dict[str, Any] | None]] = {
    "cifar10": lambda folder: parquet(folder, 10, 32, {"train": 60, "test": 20}),
    "cifar100": lambda folder: parquet(folder, 100, 32, {"train": 60, "test": 20}, "fine_label"),
    "tinyimagenet": lambda folder: parquet(folder, 20, 64, {"train": 20, "valid": 20}),
    "imagenet": lambda folder: parquet(folder, 20, 96, {"train": 20, "validation": 20}),
    "ptb": lambda folder: text(folder) or {"epochs_per_pass": 1},  # there is one batch of it
    "glue": sentences,
    "nyu": scenes,
}
"""Task -> what writes a few of its examples into a folder, and options that point to what else it has put there."""
SMALLER: dict[str, dict[str, Any]] = {
    name: {"network": "resnet8-cifar", "size": 32, "batch": 8, "scoring": 1}
    for name in ("cifar10", "cifar100", "tinyimagenet", "imagenet")
} | {
    "nyu": {"encoder": "resnet18", "pretrained": False, "size": (32, 48), "batch": 4, "scoring": 1},
    "ptb": {"batch": 4, "length": 8, "window": 5, "scoring": 1},
}
"""Task -> options that make of any of its presets a matter of seconds."""
