"""Images: every format, augmentation, the networks' shapes, and a run from the command line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import earlycrop
from tasks import _cli, _vision, cifar10
from tasks._augment import Augmentation, prepared, shift_and_flip, statistics, turn_and_crop
from tasks._feed import Held, Streamed, generator
from tasks._images import first, held_out, read
from tasks._run import upset
from tasks._torchvision import load
from tasks._vision import one_cycle
from tasks.nets.classifiers import network, require_fit
from tests.tiny_data import parquet, pictures

REAL = Path(__file__).parents[1] / "data" / "cifar10"
TINY = [
    *("--network", "resnet8-cifar", "--epochs", "4", "--batch", "16", "--scoring", "1", "--validation", "0.2"),
    *("--optimizer", "adam", "--learning-rate", "0.01"),
]


def folders(place: Path, side: int = 32) -> None:
    for split, count in (("train", 12), ("val", 6)):
        for i, (image, label) in enumerate(zip(*pictures(count, side, 3), strict=True)):
            (place / split / f"kind {label}").mkdir(parents=True, exist_ok=True)
            image.save(place / split / f"kind {label}" / f"{i:03d}.png")


def archive(place: Path) -> None:
    """CIFAR-10's Python archive: five pickled batches to train on and one to test."""
    base: Any = load("torchvision.datasets").CIFAR10
    root = place / base.base_folder
    root.mkdir(parents=True)
    images, labels = pictures(12, 32, 3)
    for name, _ in (*base.train_list, *base.test_list):
        data = np.stack([np.asarray(image).transpose(2, 0, 1).reshape(-1) for image in images])
        (root / name).write_bytes(pickle.dumps({"data": data, "labels": labels}))
    (root / base.meta["filename"]).write_bytes(pickle.dumps({"label_names": [f"kind {i}" for i in range(3)]}))


def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision knows the real archive's digests."""
    monkeypatch.setattr(load("torchvision.datasets").CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)


def test_every_format_gives_the_same_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked(monkeypatch)
    parquet(tmp_path / "parquet", 3, 32, {"train": 12, "test": 6})
    folders(tmp_path / "folders")
    archive(tmp_path / "archive")
    images, labels = pictures(12, 32, 3)
    held = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    for kind, order in (("parquet", range(12)), ("folders", sorted(range(12), key=lambda i: labels[i]))):
        train, test = read(str(tmp_path / kind), "CIFAR-10")
        assert train.classes == test.classes == ("kind 0", "kind 1", "kind 2")
        assert train.labels.tolist() == [labels[i] for i in order]
        pixels = train.pixels(1e6)
        assert pixels is not None
        torch.testing.assert_close(pixels, held[list(order)], rtol=0, atol=0)
        assert len(test) == 6
    train, test = read(str(tmp_path / "archive"), "CIFAR-10")
    assert (len(train), len(test)) == (60, 12)
    pixels = test.pixels(1e6)
    assert pixels is not None
    torch.testing.assert_close(pixels, held, rtol=0, atol=0)


def test_a_saved_data_set_s_finest_labels_are_learned(tmp_path: Path) -> None:
    import datasets

    images, _ = pictures(4, 8, 2)
    kinds = datasets.Features(
        {"coarse": datasets.ClassLabel(names=["a", "b"]), "image": datasets.Image(),
         "fine": datasets.ClassLabel(names=["c", "d", "e"])}
    )  # fmt: skip
    for split in ("train", "valid"):
        held = {"coarse": [0, 1, 0, 1], "image": images, "fine": [2, 1, 0, 1]}
        datasets.Dataset.from_dict(held, kinds).to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
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


def another(place: Path) -> None:
    (place / "cifar-100-python").mkdir()


def packed(place: Path) -> None:
    (place / "cifar-10-python.tar.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda place: None, "holds no images in a known form: put there parquet files"),
        (broken_parquet, "cannot be read"),
        (broken_image, "image 0 of the train split cannot be read"),
        (no_test, r"has no test\*.parquet: put there parquet files"),
        (strange_parquet, "has strange/train.parquet and train.parquet, of which one set alone can be the train split"),
        (unlabelled, r"has the splits train, test: train and one of test, .* are needed, with labels"),
        (other_classes, "the splits train and val have different classes"),
        (empty_class, "every class needs a folder with images"),
        (packed, "is packed: unpack it there"),
        (another, "holds CIFAR-100, and the task is CIFAR-10: give another folder"),
    ],
)
def test_bad_data_are_a_sentence(spoil: Any, told: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(ValueError, match=told):
        read(str(tmp_path), "CIFAR-10")[0].pixels(1e9)


def test_an_image_that_a_worker_cannot_read_is_named_by_its_place_in_the_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path / "data")
    for place in sorted((tmp_path / "data").rglob("*.png"))[::3]:  # of two sizes, so they are read when asked for
        Image.open(place).resize((40, 32)).save(place)
    broken_image(tmp_path / "data")
    where = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--size", "32"]
    with pytest.raises(SystemExit) as stopped:
        _cli.main("imagenet", [*where, *TINY, "--batch", "4", "--method", "dense"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "image 0 of the train split cannot be read (" in told
    assert "Traceback" not in told


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
    v2 = load("torchvision.transforms.v2")
    parquet(tmp_path, 10, 32, {"train": 40, "test": 10})
    train, _ = read(str(tmp_path), "CIFAR-10")
    pixels = train.pixels(1e9)
    assert pixels is not None
    held, streamed = Held(pixels, train.labels, 32, None), Streamed(train, 32, Augmentation(flip=True, padding=2))
    cpu = torch.device("cpu")
    for key in ((0, 1, 0), (0, 2, 0)):
        labels = [[labels.tolist() for _, labels in feed.shuffled(16, cpu, key)] for feed in (held, streamed)]
        assert labels[0] == labels[1]
        assert [len(batch) for batch in labels[0]] == [16, 16]
    transform = v2.Compose([v2.Resize(36), v2.CenterCrop(32), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    mean, deviation = (torch.tensor(told)[:, None, None] for told in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for i, image in enumerate(torch.cat([images for images, _ in streamed.plain(torch.arange(40), 16, cpu)])):
        torch.testing.assert_close(image, (transform(train.rgb(i)) - mean) / deviation)
    one, two = (torch.cat([images for images, _ in streamed.shuffled(16, cpu, (0, 1, 0))]) for _ in range(2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert one.shape == (32, 3, 32, 32)
    assert sum(len(labels) for _, labels in streamed.plain(torch.arange(40), 16, cpu)) == 40
    monkeypatch.setattr(_vision, "room", lambda device: 1.0)
    task = cifar10.make(cifar10.Options(data=str(tmp_path), network="resnet8-cifar", batch=8))
    assert isinstance(task.training, Streamed)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "size", "nodes", "millions"),
    [
        ("resnet18", 64, 5056, 11.70),  # as the authors count the nodes, and 398 Mbit / 34 the weights
        ("vgg16", 64, 12928, 50.69),  # 1720 Mbit / 34
        ("resnet18-cifar", 32, 4800, 11.17),
        ("resnet20-cifar", 32, 784, 0.272),  # He et al. 2016: 0.27 M
        ("vgg16-cifar", 32, 4224, 14.73),
    ],
)
def test_networks_have_the_sizes_that_are_told_of_them(name: str, size: int, nodes: int, millions: float) -> None:
    with torch.device("meta"):
        model = network(name, 10, size)
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert sum(m.weight.shape[0] for m in layers[:-1]) == nodes
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=3e-3)


def test_the_large_network_of_table_3_is_that() -> None:
    with torch.device("meta"):
        wide, narrow = network("resnext101_32x48d", 1000, 64), network("resnext101_32x16d", 1000, 64)
    assert round(sum(p.numel() for p in wide.parameters()) / 1e6) == 828  # the paper tells 829
    assert round(sum(p.numel() for p in narrow.parameters()) / 1e6) == 194


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("nothing", 32, "there is no network 'nothing': take one of resnet18"),
        ("vgg16", 20, "vgg16 does not take images of 20 x 20: give another --size"),
        ("googlenet", 64, "googlenet does not return logits alone when it is trained"),
        ("timm:resnet18", 32, "needs timm, which is not installed"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Initializing zero-element")
def test_networks_that_cannot_be_are_a_sentence(name: str, size: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        require_fit(name, 10, size)


def test_the_schedule_is_torch_s_one_cycle() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2.0, total_steps=1001)
    for step in range(1000):
        # torch counts its steps from 0 to the last, and its peak is a step before 30 %
        assert 2.0 * one_cycle(step / 1000) == pytest.approx(scheduler.get_last_lr()[0], rel=0.03, abs=1e-3)
        optimizer.step()
        scheduler.step()


def run(place: Path, *more: str) -> tuple[Any, list[dict[str, Any]]]:
    result = _cli.main("cifar10", [*TINY, "--data", str(place / "data"), "--runs", str(place / "runs"), *more])
    folder = place / "runs" / result.run
    return result, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_run_learns_is_cut_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "data", 4, 32, {"train": 100, "test": 40})
    result, log = run(
        tmp_path, "--method", "earlycrop-s", "--sparsity", "0.5", "--epochs", "8", "--test-epochs", "1", "3"
    )
    assert (result.metric, result.split, result.dataset) == ("accuracy", "test", "CIFAR-10")
    assert result.value > 0.5, "four greys are easily told apart"
    assert result.weight_sparsity >= 0.5
    assert result.macs < result.dense_macs
    speedup = result.dense_batch_ms / result.batch_ms
    assert result.of_macs_limit == pytest.approx(speedup / (result.dense_macs / result.macs))
    assert result.step_bytes > 0 < result.dense_step_bytes
    assert all(0 <= line["validation_accuracy"] <= 1 for line in log)
    assert [line["epoch"] for line in log if "test_accuracy" in line] == [1, 3]
    (event,) = (line["event"] for line in log if line["event"])
    assert event["prediction_moved"] > 0
    assert {"validation_accuracy_before", "validation_accuracy_after"} <= set(event)
    model = earlycrop.load(tmp_path / "runs" / result.run, network("resnet8-cifar", 4, 32))
    task = cifar10.make(cifar10.Options(data=str(tmp_path / "data"), network="resnet8-cifar"))
    assert task.evaluate(model) == result.value


def test_the_rate_follows_every_batch(tmp_path: Path) -> None:
    parquet(tmp_path, 4, 32, {"train": 64, "test": 8})
    task = cifar10.make(
        cifar10.Options(data=str(tmp_path), network="resnet8-cifar", batch=16, validation=0.0, epochs=2, seed=3)
    )
    from tasks._ranks import Replicas
    from tasks._training import train

    assert task.batches_per_epoch == 4
    model = task.model()
    optimizer = task.optimizer(model)
    rates: list[float] = []
    optimizer.register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    train(task, model, optimizer, 2, lambda done: task.learning_rate((1 + done) / 2), Replicas())
    expected = [0.1 * (1 + np.cos(np.pi * (1 + done) / 2)) / 2 for done in (0, 0.25, 0.5, 0.75)]
    assert rates == pytest.approx(expected)


def test_scores_are_taken_on_training_images_as_they_are(tmp_path: Path) -> None:
    parquet(tmp_path, 4, 32, {"train": 64, "test": 8})
    task = cifar10.make(cifar10.Options(data=str(tmp_path), network="resnet8-cifar", batch=16, scoring=2))
    model = task.model()
    before = torch.get_rng_state()
    one, two = (torch.cat([images for images, _ in task.scoring_batches(model, e)]) for e in (1, 1))
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    everything = torch.cat(
        [i for i, _ in task.training.plain(torch.arange(len(task.training)), 64, torch.device("cpu"))]
    )  # type: ignore[attr-defined]
    distance = (
        torch.cdist(one.flatten(1), everything.flatten(1), compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    )
    assert len(one) == 32
    assert float(distance.max()) == 0


@pytest.mark.slow
def test_pruned_on_another_device_it_is_the_same_network_and_the_dense_one_is_not_measured(tmp_path: Path) -> None:
    parquet(tmp_path / "data", 4, 32, {"train": 100, "test": 40})
    more = ("--method", "crop-s", "--sparsity", "0.5", "--epochs", "2")
    here, _ = run(tmp_path, *more)
    there, log = run(tmp_path, *more, "--prune-on", "cpu")
    assert (there.value, there.macs, there.weight_sparsity) == (here.value, here.macs, here.weight_sparsity)
    assert (there.dense_macs, there.dense_batch_ms, there.dense_step_bytes) == (None, None, None)
    assert log[0]["epoch"] == 0


def test_what_a_pruning_upset_by_hand() -> None:
    was = {"accuracy": 0.5, "prediction": torch.tensor([[0.5, 0.5]]).log()}
    now = {"accuracy": 0.25, "prediction": torch.tensor([[0.25, 0.75]]).log()}
    told = upset(was, now)
    assert told["accuracy_before"] == 0.5
    assert told["accuracy_after"] == 0.25
    assert told["prediction_moved"] == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--size", "4"], "size must be at least 8, not 4"),
        (["--validation", "1"], "validation must be at least 0 and below 1"),
        (["--smallest-crop", "0"], "smallest_crop must be above 0"),
        (["--test-epochs", "9"], "test_epochs must be epochs from 1 to 4, not [9]"),
        (["--network", "nothing"], "there is no network 'nothing'"),
        (["--record"], "cifar10 has nothing to draw: leave out --record"),
        (["--method", "crop-s", "--prune-on", "nowhere"], "there is no device 'nowhere' here"),
        (["--method", "earlycrop-s", "--prune-on", "cpu"], "--prune-on is for what is pruned before training"),
    ],
)
def test_wrong_options_are_a_sentence(more: list[str], told: str, tmp_path: Path, capsys: Any) -> None:
    parquet(tmp_path / "data", 4, 32, {"train": 20, "test": 8})
    with pytest.raises(SystemExit) as left:
        run(tmp_path, *more)
    assert left.value.code == 2
    assert f"error: {told}" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_the_real_images_are_read() -> None:
    train, test = read(str(REAL), "CIFAR-10")
    assert (len(train), len(test), len(train.classes)) == (45000, 6000, 10)
    pixels = first(train, 200).pixels(1e9)
    assert pixels is not None
    mean, _ = statistics(pixels)
    assert mean.flatten().tolist() == pytest.approx([125, 123, 114], abs=12)  # CIFAR-10's known channel means
