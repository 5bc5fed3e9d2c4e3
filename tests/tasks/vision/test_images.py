"""Images in every format that people have them in, and what is said of bad ones."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from earlycrop.utils.torchvision_compat import load_torchvision
from tasks.data.batches import statistics
from tasks.vision.images import first, held_out, read
from tests.tasks.tiny_data import parquet, pictures


def folders(place: Path, side: int = 32) -> None:
    for split, count in (("train", 12), ("val", 6)):
        for i, (image, label) in enumerate(zip(*pictures(count, side, 3), strict=True)):
            (place / split / f"kind {label}").mkdir(parents=True, exist_ok=True)
            image.save(place / split / f"kind {label}" / f"{i:03d}.png")


def archive(place: Path) -> None:
    """CIFAR-10's Python archive: five pickled batches to train on and one to test."""
    base: Any = load_torchvision("torchvision.datasets").CIFAR10
    root = place / base.base_folder
    root.mkdir(parents=True)
    images, labels = pictures(12, 32, 3)
    for name, _ in (*base.train_list, *base.test_list):
        data = np.stack([np.asarray(image).transpose(2, 0, 1).reshape(-1) for image in images])
        (root / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
    (root / base.meta["filename"]).write_bytes(pickle.dumps({"label_names": [f"kind {i}" for i in range(3)]}))


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision knows the real archive's digests."""
    monkeypatch.setattr(load_torchvision("torchvision.datasets").CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)


def test_every_format_gives_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked(monkeypatch)
    parquet(tmp_path / "parquet", 3, 32, {"train": 12, "test": 6})
    folders(tmp_path / "folders")
    archive(tmp_path / "archive")
    images, labels = pictures(12, 32, 3)
    pixels_of_all = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    for kind, order in (("parquet", range(12)), ("folders", sorted(range(12), key=lambda i: labels[i]))):
        train, test = read(str(tmp_path / kind), "CIFAR-10")
        assert train.classes == test.classes == ("kind 0", "kind 1", "kind 2")
        assert train.labels.tolist() == [labels[i] for i in order]
        pixels = train.pixels(1e6)
        assert pixels is not None
        torch.testing.assert_close(pixels, pixels_of_all[list(order)], rtol=0, atol=0)
        assert len(test) == 6
    train, test = read(str(tmp_path / "archive"), "CIFAR-10")
    assert (len(train), len(test)) == (60, 12)
    pixels = test.pixels(1e6)
    assert pixels is not None
    torch.testing.assert_close(pixels, pixels_of_all, rtol=0, atol=0)


def test_a_saved_data_set_s_finest_labels_are_learned(tmp_path: Path) -> None:
    import datasets

    images, _ = pictures(4, 8, 2)
    kinds = datasets.Features(
        {"coarse": datasets.ClassLabel(names=["a", "b"]), "image": datasets.Image(),
         "fine": datasets.ClassLabel(names=["c", "d", "e"])}
    )  # fmt: skip
    for split in ("train", "valid"):
        columns = {"coarse": [0, 1, 0, 1], "image": images, "fine": [2, 1, 0, 1]}
        datasets.Dataset.from_dict(columns, kinds).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    train, valid = read(str(tmp_path), "CIFAR-10")
    assert train.classes == ("c", "d", "e")
    assert train.labels.tolist() == [2, 1, 0, 1]
    assert valid.name == "valid"


def without_labels(path: Path) -> None:
    """Images as a contest has them to be judged by: every label is -1."""
    import datasets

    kinds = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["kind 0", "kind 1"])})
    datasets.Dataset.from_dict({"img": pictures(4, 8, 2)[0], "label": [-1] * 4}, kinds).to_parquet(path)


def test_a_contest_s_split_without_labels_is_passed_over(tmp_path: Path) -> None:
    parquet(tmp_path, 2, 8, {"train": 4, "validation": 6})
    without_labels(tmp_path / "test.parquet")
    train, evaluated = read(str(tmp_path), "CIFAR-10")
    assert (train.name, len(train), evaluated.name, len(evaluated)) == ("train", 4, "validation", 6)


def broken_parquet(place: Path) -> None:
    parquet(place, 2, 8, {"train": 4, "test": 4})
    (place / "train.parquet").write_bytes((place / "train.parquet").read_bytes()[:200])


def broken_image(place: Path) -> None:
    folders(place)
    (place / "train" / "kind 0" / "000.png").write_bytes(b"\x89PNG\r\n")


def no_test(place: Path) -> None:
    parquet(place, 2, 8, {"train": 4})


def strange_parquet(place: Path) -> None:
    parquet(place, 2, 8, {"train": 4, "test": 4})
    parquet(place / "strange", 2, 8, {"train": 4})


def unlabelled(place: Path) -> None:
    parquet(place, 2, 8, {"train": 4})
    without_labels(place / "test.parquet")


def other_classes(place: Path) -> None:
    folders(place)
    (place / "val" / "kind 0").rename(place / "val" / "kind 9")


def empty_class(place: Path) -> None:
    folders(place)
    (place / "train" / "kind 7").mkdir()


def rows(place: Path, images: list[Any], labels: list[Any]) -> None:
    """Parquet files whose images and labels are these rows as they are stored."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    kinds = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["kind 0", "kind 1"])})
    stored = pyarrow.table({"img": pyarrow.array(images, kinds["img"].pa_type), "label": pyarrow.array(labels)})
    for split in ("train", "test"):
        table = stored.replace_schema_metadata(kinds.arrow_schema.metadata)
        pyarrow.parquet.write_table(table, place / f"{split}.parquet")


def stored_image() -> dict[str, Any]:
    content = BytesIO()
    pictures(1, 8, 2)[0][0].save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def label_beyond(place: Path) -> None:
    rows(place, [stored_image()] * 3, [0, 1, 2])


def no_label(place: Path) -> None:
    rows(place, [stored_image()] * 3, [0, None, 1])


def no_image(place: Path) -> None:
    rows(place, [None, stored_image()], [0, 1])


def names_another_file(place: Path) -> None:
    pictures(1, 8, 2)[0][0].save(place / "secret.png")
    rows(place, [{"bytes": None, "path": str(place / "secret.png")}], [0])


def bomb(place: Path) -> None:
    """An image that says in a few bytes that it has 10^10 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    rows(place, [{"bytes": b"\x89PNG\r\n\x1a\n" + b"".join(packed), "path": None}], [0])


def another(place: Path) -> None:
    (place / "cifar-100-python").mkdir()


def packed(place: Path) -> None:
    (place / "cifar-10-python.tar.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda place: None, "holds no images in a known form: put there parquet files"),
        (broken_parquet, "cannot be read"),
        (broken_image, "image 0 of the train split cannot be read"),
        (no_test, r"has no test.parquet and no shards of it: put there parquet files"),
        (strange_parquet, r"strange/train.parquet and .*/train.parquet are all train splits: leave one of them in"),
        (unlabelled, r"has the splits train, test: train and one of test, .* are needed, with labels"),
        (label_beyond, "the label of row 2 of the train split is 2, and there are classes 0 to 1: mend or remove that"),
        (
            no_label,
            "the label of row 1 of the train split is nan, and there are classes 0 to 1: mend or remove that row",
        ),
        (no_image, r"image 0 of the train split cannot be read \(the row has none\): mend or remove it"),
        (names_another_file, r"image 0 .*\(the row names the file .*secret.png instead, which is not followed\)"),
        (bomb, r"image 0 .*cannot be read \(Image size \(10000000000 pixels\) exceeds limit of 178956970 pixels"),
        (other_classes, "the splits train and val have different classes"),
        (empty_class, "every class needs a folder with images"),
        (packed, "is packed: unpack it there"),
        (another, "holds CIFAR-100, and the task is CIFAR-10: give another folder"),
    ],
)
def test_bad_data_are_a_sentence(spoil: Any, message: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        read(str(tmp_path), "CIFAR-10")[0].pixels(1e9)


class Evil:
    """Its pickle makes a folder as it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_an_archive_of_somebody_else_is_not_opened(tmp_path: Path) -> None:
    """It is a pickle, which may run any code: it is read only if its checksum is that of the original."""
    archive(tmp_path)
    for file in sorted(tmp_path.glob("*/*")):
        file.write_bytes(pickle.dumps(Evil(tmp_path / "mark")))
    with pytest.raises(ValueError, match=r"CIFAR10's files in .* are not whole"):
        read(str(tmp_path), "CIFAR-10")
    assert not (tmp_path / "mark").exists()
    pickle.loads(file.read_bytes())  # as it would have been
    assert (tmp_path / "mark").exists()


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises(
        ValueError, match=r"there is no folder ./nowhere: --data takes a data set on the hub, or a folder"
    ):
        read("./nowhere", "CIFAR-10")


def test_what_is_held_out_is_never_trained_on_and_the_same_for_every_seed(tmp_path: Path) -> None:
    parquet(tmp_path, 10, 8, {"train": 50, "test": 10})
    train, _ = read(str(tmp_path), "CIFAR-10")
    numbered = train.part(np.arange(50))
    numbered.labels[:] = np.arange(50)
    some = first(numbered, 40)
    train, validation = held_out(some, 0.25)
    assert (len(train), len(validation)) == (30, 10)
    assert sorted([*train.labels, *validation.labels]) == sorted(some.labels)
    again, _ = held_out(first(numbered, 40), 0.25)
    assert again.labels.tolist() == train.labels.tolist()


REAL = Path(__file__).parents[3] / "data" / "cifar10"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_the_real_images_are_read() -> None:
    train, test = read(str(REAL), "CIFAR-10")
    assert (len(train), len(test), len(train.classes)) == (45000, 6000, 10)
    pixels = first(train, 200).pixels(1e9)
    assert pixels is not None
    mean, _ = statistics(pixels)
    assert mean.flatten().tolist() == pytest.approx([125, 123, 114], abs=12)  # CIFAR-10's known channel means


def test_sixteen_bits_of_grey_are_scaled_and_other_ranges_are_refused(tmp_path: Path) -> None:
    folders(tmp_path)
    file = min((tmp_path / "train").glob("*/*"))
    ramp = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(file)
    seen = np.asarray(read(str(tmp_path), "Pictures")[0].rgb(0))
    assert len(np.unique(seen)) == 256
    np.testing.assert_array_equal(seen, np.stack([np.round(ramp / 257)] * 3, -1))
    file.unlink()
    Image.fromarray(ramp.astype(np.float32)).save(file.with_suffix(".tiff"))
    with pytest.raises(ValueError, match=r"image 0 of the train split .*has values of 32 bits, mode F: save it with 8"):
        read(str(tmp_path), "Pictures")[0].rgb(0)
