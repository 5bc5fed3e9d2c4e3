"""Depth regression: the network, both layouts of the data, augmentation, losses and errors by hand, and whole runs."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from matplotlib.image import imread
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import earlycrop
from tasks import _cli, _run, nyu
from tasks._augment import IMAGENET
from tasks._depth import Augmentation, Errors, View, berhu, depths_seen, drawn, images_seen, l2, middle, shown
from tasks._frames import Frames, reduced
from tasks._nyu import LABELED, SPLITS, Pairs, held_out, read, spread
from tasks._predicted import errors_of_mean
from tasks._store import RunError, Store, configuration
from tasks._torchvision import load
from tasks.nets import fcrn
from tasks.nets.fcrn import FCRN, UpConvolution, UpProjection, unpooled
from tests.tiny_data import rooms, scenes

REAL = Path(__file__).parents[1] / "data" / "rgbd"
CPU = torch.device("cpu")
SMALL = nyu.Options(
    method="dense", encoder="resnet18", size=(32, 48), batch=4, scoring=2, validation=0.25, learning_rate=3e-3, epochs=3
)


def made(folder: Path, **changed: Any) -> nyu.Depth:
    if not folder.exists():
        scenes(folder)
    return nyu.Depth(replace(SMALL, data=str(folder), **changed))


class Narrow(nn.Module):
    """What a ResNet is to the network: five halvings, here to 64 channels, and ``fc`` for their number."""

    def __init__(self, *_: Any) -> None:
        super().__init__()
        widths = (3, 16, 16, 32, 32, 64)
        for i, (inputs, outputs) in enumerate(pairwise(widths)):
            layers = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
            setattr(self, f"layer{i}", nn.Sequential(*layers))
        self.fc = nn.Linear(64, 1)


def labeled(folder: Path, count: int = 10, **changed: Any) -> tuple[np.ndarray, np.ndarray]:
    """The official file's layout, as MATLAB writes it: width before height; and the split, MATLAB v5, from 1 on."""
    folder.mkdir(parents=True, exist_ok=True)
    images, depths = rooms(count)
    with h5py.File(folder / LABELED, "w", userblock_size=512) as file:
        file["images"], file["depths"] = images.transpose(0, 1, 3, 2), depths.transpose(0, 2, 1)
    with (folder / LABELED).open("r+b") as raw:  # what MATLAB has in front of an HDF5 file
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
    rows = {"trainNdxs": np.array([[3], [1], [10], [5]], np.uint16), "testNdxs": np.array([[2], [9], [4]], np.uint16)}
    scipy.io.savemat(folder / SPLITS, {**rows, **changed})
    return images, depths


# --- the network


@pytest.mark.parametrize(("inputs", "outputs", "size"), [(8, 4, (3, 5)), (3, 6, (8, 1)), (5, 2, (7, 10))])
def test_the_fast_up_convolution_is_the_plain_one(inputs: int, outputs: int, size: tuple[int, int]) -> None:
    fast, x = UpConvolution(inputs, outputs), torch.randn(2, inputs, *size)
    plain = UpConvolution(inputs, outputs, fast=False)
    plain.load_state_dict(fast.state_dict())
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(m(x).square().sum(), m.weight)[0] for m in (fast, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    interleaved = torch.empty_like(plain(x))
    around = functional.pad(x, (1, 1, 1, 1))
    for i, j in product((0, 1), (0, 1)):  # the four convolutions of Laina et al., figure 3
        interleaved[:, :, i::2, j::2] = functional.conv2d(around[:, :, i:, j:], fast.weight[:, :, i::2, j::2])
    torch.testing.assert_close(fast(x), interleaved, rtol=1e-5, atol=1e-5)


def test_unpooling_by_hand() -> None:
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = [[1.0, 0.0, 2.0, 0.0], [0.0] * 4, [3.0, 0.0, 4.0, 0.0], [0.0] * 4]
    assert unpooled(x)[0, 0].tolist() == expected


def test_both_forms_of_the_network_give_the_same_depths() -> None:
    fast, plain = FCRN("resnet18").eval(), FCRN("resnet18", fast=False).eval()
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(2, 3, 57, 76)
    assert fast(x).shape == (2, 32, 48)
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-5, atol=1e-5)


def test_the_network_of_the_paper_has_its_sizes() -> None:
    with torch.device("meta"):
        model = FCRN()
        assert model(torch.empty(2, 3, 228, 304)).shape == (2, 128, 160)
    assert model.reduction.weight.shape == (1024, 2048, 1, 1)
    blocks = [block for block in model.decoder if isinstance(block, UpProjection)]
    assert [block.up.weight.shape[:2] for block in blocks] == [(512, 1024), (256, 512), (128, 256), (64, 128)]
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(63.6, abs=0.1)  # theirs: 63.6 M


@pytest.mark.parametrize("fast", [True, False])
def test_the_tracer_cuts_it_whole(fast: bool) -> None:
    model, x = FCRN("resnet18", fast=fast), torch.randn(1, 3, 64, 96)
    graph = earlycrop.trace(model, x)
    left = {name: p.shape[0] for name, p in model.named_parameters() if p.ndim == 4 and name != "prediction.weight"}
    names = ("conv1", "conv2", "downsample", "reduction", "up", "conv", "shortcut")
    assert all(any(part in name for part in names) for name in left)
    before = dict(left)
    half = [node for i, node in enumerate(range(graph.count)) if i % 2]
    cut = earlycrop.shrink(model, graph, half)
    assert cut.difference is not None
    assert cut.difference <= 1e-5
    after = {name: model.get_parameter(name).shape[0] for name in before}
    assert all(after[name] == before[name] // 2 for name in before), after
    assert all(p.shape[1] < 64 or name == "encoder.conv1.weight" for name, p in model.named_parameters()
               if p.ndim == 4 and "decoder.3" in name)  # fmt: skip
    assert model.prediction.weight.shape == (1, 8, 3, 3)
    assert "stay" not in graph.report()


def test_an_encoder_that_cannot_be_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"there is no encoder 'vgg16': take one of resnet18, "):
        FCRN("vgg16")

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("<urlopen error no route>")

    monkeypatch.setattr(load("torchvision.models")._api.WeightsEnum, "get_state_dict", unreachable)
    with pytest.raises(ValueError, match=r"resnet18's pretrained weights are neither .* \(<urlopen error no route>\)"):
        FCRN("resnet18", pretrained=True)


def test_pretrained_weights_are_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    held = load("torchvision.models").resnet18()
    monkeypatch.setattr(
        load("torchvision.models")._api.WeightsEnum, "get_state_dict", lambda *_, **__: held.state_dict()
    )
    torch.testing.assert_close(
        FCRN("resnet18", pretrained=True).encoder.layer4[1].conv2.weight, held.layer4[1].conv2.weight
    )


# --- data


def test_the_folder_layout_is_read_in_order(tmp_path: Path) -> None:
    scenes(tmp_path)
    train, val, name = read(str(tmp_path))
    assert (len(train), len(val), val.name, name) == (16, 6, "val", tmp_path.name)
    assert train.keys[:5] == ("attic/00000.h5", "attic/00001.h5", "attic/00002.h5", "attic/00003.h5", "den_1/00000.h5")
    images, depths = rooms(12)
    rgb, depth = train.read(4)
    assert (rgb.dtype, depth.dtype) == (np.uint8, np.float32)
    np.testing.assert_array_equal(rgb, images[0])
    np.testing.assert_array_equal(depth, depths[0])


def test_the_data_set_is_named_after_what_there_is(tmp_path: Path) -> None:
    scenes(tmp_path / "several")
    assert read(str(tmp_path / "several"))[2] == "several"
    scenes(tmp_path / "handed")
    (tmp_path / "handed/val/hall").rename(tmp_path / "handed/val/official")
    assert read(str(tmp_path / "handed"))[2] == "nyu-depth-v2"
    scenes(tmp_path / "one")
    for split, scene in (("train", "den_1"), ("val", "hall")):
        (tmp_path / "one" / split / scene).rename(tmp_path / "one" / split / "kitchen")
    (tmp_path / "one/train/attic").rename(tmp_path / "attic")
    assert read(str(tmp_path / "one"))[2] == "one-kitchen"
    labeled(tmp_path / "official")
    assert read(str(tmp_path / "official"))[2] == "nyu-depth-v2"
    assert made(tmp_path / "several", dataset="mine").dataset == "mine"


def test_the_official_file_is_turned_and_split(tmp_path: Path) -> None:
    images, depths = labeled(tmp_path)
    train, test, _ = read(str(tmp_path))
    assert (train.keys, test.keys, test.name) == ((0, 2, 4, 9), (1, 3, 8), "test")
    rgb, depth = train.read(3)
    np.testing.assert_array_equal(rgb, images[9])
    np.testing.assert_array_equal(depth, depths[9])
    assert rgb.shape == (3, 48, 64)


def test_both_layouts_give_the_same_batches(tmp_path: Path) -> None:
    images, depths = labeled(tmp_path / "mat")
    for split, rows in (("train", (0, 2, 4, 9)), ("val", (1, 3, 8))):
        (tmp_path / "h5" / split / "all").mkdir(parents=True)
        for row in rows:
            with h5py.File(tmp_path / "h5" / split / "all" / f"{row:05d}.h5", "w") as file:
                file["rgb"], file["depth"] = images[row], depths[row]
    one, other = made(tmp_path / "mat", validation=0.0), made(tmp_path / "h5", validation=0.0)
    model = one.model()
    for a, b in zip(one.batches(model, 1), other.batches(model, 1), strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert one.evaluate(model) == other.evaluate(model)


def test_no_reading_is_zero(tmp_path: Path) -> None:
    scenes(tmp_path)
    with h5py.File(tmp_path / "val/hall/00000.h5", "r+") as file:
        depth = file["depth"][()]
        depth[0, :4] = [np.nan, np.inf, -1.0, 2.0]
        file["depth"][()] = depth
    _, val, _ = read(str(tmp_path))
    assert val.read(0)[1][0, :4].tolist() == [0.0, 0.0, 0.0, 2.0]


def test_held_out_are_the_last_of_each_scene() -> None:
    pairs = Pairs(Path(), tuple(range(30)), ("a",) * 20 + ("b",) * 10, "train")
    train, held = held_out(pairs, 0.2)
    assert held.keys == (16, 17, 18, 19, 28, 29)
    assert train.keys == (*range(16), *range(20, 28))
    assert held_out(pairs, 0.0)[0] == pairs
    assert spread(pairs, 6).keys == (0, 5, 10, 15, 20, 25)
    assert spread(pairs, 0) == spread(pairs, 99) == pairs


def rewrite(path: Path, **held: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, values in held.items():
            file[name] = values


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def shortened(path: Path) -> None:
    """A file whose header is whole and whose compressed depths are not what was written."""
    with h5py.File(path) as file:
        chunk = file["depth"].id.get_chunk_info(3)
    raw = bytearray(path.read_bytes())
    raw[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\x00" * chunk.size
    path.write_bytes(bytes(raw))


RGB, METRES = np.zeros((3, 8, 9), np.uint8), np.ones((8, 9), np.float32)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (truncate, r"val/hall/00003.h5 cannot be read \(.*truncated.*\): fetch it anew"),
        (shortened, r"val/hall/00003.h5 cannot be read \(.*\): fetch it anew"),
        (lambda p: p.write_bytes(b""), r"val/hall/00003.h5 cannot be read \(.*\): fetch it anew"),
        (lambda p: rewrite(p, rgb=RGB), r"00003.h5 has no data set depth \(there are rgb\): fetch it anew"),
        (lambda p: rewrite(p), r"00003.h5 has no data set rgb \(there are none\)"),
        (
            lambda p: rewrite(p, rgb=RGB.transpose(1, 2, 0), depth=METRES),
            r"has rgb \(8, 9, 3\) uint8 and depth \(8, 9\) float32, and rgb \(3, H, W\) uint8 and depth \(H, W\) float",
        ),
        (lambda p: rewrite(p, rgb=RGB, depth=METRES.T), r"has rgb \(3, 8, 9\) uint8 and depth \(9, 8\) float32"),
        (lambda p: rewrite(p, rgb=RGB / 1.0, depth=METRES), r"has rgb \(3, 8, 9\) float64"),
        (lambda p: rewrite(p, rgb=RGB, depth=METRES[None]), r"depth \(1, 8, 9\) float32"),
        (
            lambda p: [f.unlink() for f in p.parent.iterdir()],
            r"val/hall has no pairs: put NNNNN.h5 there, or remove the folder",
        ),
        (lambda p: [f.unlink() for f in p.parent.iterdir()] and p.parent.rmdir(), r"val has no scenes: put there"),
        (lambda p: p.parents[1].rename(p.parents[2] / "test"), rf"has no {LABELED} and no val: put there {LABELED}"),
    ],
)
def test_bad_folders_are_a_sentence(damage: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    scenes(tmp_path)
    damage(tmp_path / "val/hall/00003.h5")
    with pytest.raises(ValueError, match=told):
        made(tmp_path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda p: truncate(p / LABELED), rf"{LABELED} cannot be read \(.*\): fetch it anew"),
        (
            lambda p: scipy.io.savemat(p / LABELED, {"images": RGB}),
            rf"{LABELED} cannot be read \(it is a MATLAB v5 file, and not v7.3, which is HDF5\): fetch it anew",
        ),
        (lambda p: rewrite(p / LABELED, images=RGB[None]), rf"{LABELED} has no data set depths \(there are images\)"),
        (
            lambda p: rewrite(p / LABELED, images=RGB[None], depths=METRES.T[None]),
            r"has images \(1, 3, 8, 9\) uint8 and depths \(1, 9, 8\) float32, and images \(N, 3, W, H\) uint8",
        ),
        (lambda p: (p / SPLITS).unlink(), rf"has no {SPLITS}, which says what is trained on"),
        (lambda p: rewrite(p / SPLITS, trainNdxs=[1]), rf"{SPLITS} cannot be read as a MATLAB v5 file of trainNdxs"),
        (lambda p: (p / SPLITS).write_bytes(b"what"), rf"{SPLITS} cannot be read as a MATLAB v5 file of trainNdxs"),
        (lambda p: scipy.io.savemat(p / SPLITS, {"trainNdxs": [1]}), r"cannot be read .* \('testNdxs'\): fetch"),
        (
            lambda p: scipy.io.savemat(p / SPLITS, {"trainNdxs": [1, 2], "testNdxs": [11]}),
            r"does not part the 10 pairs .* \(it has 2 to train and 1 to test, from 1 to 11\): fetch both anew",
        ),
        (lambda p: scipy.io.savemat(p / SPLITS, {"trainNdxs": [1, 2], "testNdxs": [2]}), r"does not part the 10 pairs"),
        (lambda p: scipy.io.savemat(p / SPLITS, {"trainNdxs": [], "testNdxs": []}), r"0 to train and 0 to test"),
    ],
)
def test_a_bad_official_file_is_a_sentence(damage: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    labeled(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=told):
        made(tmp_path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"data": "data/nowhere"}, f"there is no folder data/nowhere: --data takes one that holds {LABELED}"),
        ({"size": (16, 48)}, "size must be 32 or more"),
        ({"scale": 0.9}, "scale must be a number of 1 or more"),
        ({"colour": 1.0}, "colour must be at least 0 and below 1"),
        ({"rotation": math.inf}, "rotation must be a number of 0 or more"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"clip": -1.0}, "clip must be None or above 0"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"validation": 0.999}, "no training frames left: lower --validation"),
    ],
)
def test_wrong_options_are_a_sentence(changed: dict[str, Any], told: str, tmp_path: Path) -> None:
    scenes(tmp_path)
    with pytest.raises(ValueError, match=told):
        nyu.make(replace(SMALL, **{"data": str(tmp_path), **changed}))


# --- frames


def test_frames_that_do_not_fit_are_read_by_workers_and_are_the_same(tmp_path: Path) -> None:
    scenes(tmp_path, train=40)
    train, _, _ = read(str(tmp_path))
    held, streamed = Frames(train, (34, 51), 1e9), Frames(train, (34, 51), 1000)
    assert held.held is not None
    assert streamed.held is None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(3))
    state = torch.get_rng_state()
    parts = [list(frames.batches(order, 8, CPU)) for frames in (held, streamed)]
    assert torch.equal(torch.get_rng_state(), state)
    for (images, depths), (others, deeps) in zip(*parts, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(depths, deeps)
    (tmp_path / "train/den_1/00009.h5").unlink()
    with pytest.raises(RunError, match=r"00009.h5 cannot be read"):
        list(streamed.batches(order, 8, CPU))


def test_reducing_averages_colours_and_picks_depths() -> None:
    random = np.random.default_rng(0)
    rgb, depth = random.integers(0, 255, (3, 48, 64), dtype=np.uint8), random.random((48, 64)).astype(np.float32)
    image, depths = reduced(rgb, depth, (12, 16))
    np.testing.assert_array_equal(depths.numpy(), depth[2::4, 2::4])
    peer = Image.fromarray(rgb.transpose(1, 2, 0)).resize((16, 12), Image.Resampling.BILINEAR)
    assert np.abs(image.numpy().transpose(1, 2, 0).astype(int) - np.asarray(peer).astype(int)).max() <= 1
    same, kept = reduced(rgb, depth, (48, 64))
    np.testing.assert_array_equal(same.numpy(), rgb)
    np.testing.assert_array_equal(kept.numpy(), depth)


# --- views


def view(**changed: Any) -> View:
    return replace(middle(1, CPU), **{name: torch.tensor([value]) for name, value in changed.items()})


def ramp() -> tuple[Tensor, Tensor]:
    """Frames of 40 x 60 of which the depth is the column's number plus 1, and the colour (row, column, 100)."""
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    return torch.stack([rows, columns, torch.full_like(rows, 100)]).byte()[None], (columns + 1.0)[None]


def seen(**changed: Any) -> tuple[Tensor, Tensor]:
    """Colours (3, 20, 30) on the scale of the frame's, and depths (20, 30), of a view of the ramp."""
    images, depths = ramp()
    at = view(**changed)
    return 255 * shown(images_seen(images, at, (20, 30)))[0], depths_seen(depths, at, (20, 30), (20, 30))[0]


def test_the_middle_is_the_middle() -> None:
    colours, depths = seen()
    rows, columns = torch.arange(10, 30.0), torch.arange(15, 45.0)
    torch.testing.assert_close(colours[0], rows[:, None].expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(colours[1], columns.expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(depths, (columns + 1).expand(20, 30))


def test_the_network_s_inputs_are_normalised_as_imagenet_s() -> None:
    images = torch.full((1, 3, 20, 30), 51, dtype=torch.uint8)
    inputs = images_seen(images, middle(1, CPU), (20, 30))[0, :, 3, 4]
    torch.testing.assert_close(inputs, (0.2 - torch.tensor(IMAGENET[0])) / torch.tensor(IMAGENET[1]))


def test_what_is_enlarged_is_nearer() -> None:
    colours, depths = seen(scale=2.0)
    # at twice the size, the window of 30 columns shows 15 of the frame's, from 22.5 to 37.5, each for two of its own
    columns = 22.5 + (torch.arange(30) + 0.5) / 2 - 0.5
    torch.testing.assert_close(colours[1], columns.expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(depths * 2, (columns.round() + 1).expand(20, 30), atol=0.51, rtol=0)
    assert float(depths.max()) < 20  # half of what is there


def test_a_turn_moves_both_alike() -> None:
    colours, depths = seen(angle=math.pi / 2, scale=1.5)
    # right of the middle, in the window, is what lies below the middle of the frame, and below it what lies to the left
    right = (torch.arange(30) + 0.5 - 15) / 1.5
    down = (torch.arange(20) + 0.5 - 10) / 1.5
    torch.testing.assert_close(colours[0], (20 + right - 0.5).expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(colours[1], (30 - down - 0.5)[:, None].expand(20, 30), atol=1e-3, rtol=0)
    torch.testing.assert_close(depths * 1.5 - 1, colours[1], atol=0.51, rtol=0)


def test_a_mirrored_view_is_that_flipped() -> None:
    for name, plain, mirrored in zip(("colours", "depths"), seen(), seen(mirror=-1.0), strict=True):
        torch.testing.assert_close(plain.flip(-1), mirrored, atol=1e-3, rtol=0, msg=name)


def test_a_shift_goes_as_far_as_the_edge() -> None:
    colours, depths = seen(shift=[1.0, -1.0])
    torch.testing.assert_close(colours[:2, 0, -1], torch.tensor([0.0, 59.0]), atol=1e-3, rtol=0)
    torch.testing.assert_close(depths[0], torch.arange(31.0, 61.0))


def test_beyond_the_edge_there_is_no_reading() -> None:
    images, depths = ramp()
    at = view(angle=math.pi / 4)
    wide, deep = shown(images_seen(images, at, (40, 60)))[0], depths_seen(depths, at, (40, 60), (40, 60))[0]
    assert deep[0, 0] == 0
    assert wide[2, 0, 0] < 0.01
    assert deep[20, 30] > 0


def test_colours_are_brightened_each_by_its_own() -> None:
    plain, bright = seen()[0], seen(colour=[1.2, 0.8, 1.1])[0]
    torch.testing.assert_close(bright, plain * torch.tensor([1.2, 0.8, 1.1])[:, None, None], atol=1e-3, rtol=0)


def test_views_are_drawn_within_their_bounds() -> None:
    random = torch.Generator().manual_seed(0)
    at = drawn(4000, Augmentation(), random, CPU)
    for values, low, high in (
        (at.scale, 1.0, 1.5), (at.angle, -math.radians(5), math.radians(5)), (at.shift, -1.0, 1.0),
        (at.colour, 0.8, 1.2),
    ):  # fmt: skip
        assert low <= float(values.min()) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < float(values.max()) <= high
        assert float(values.std()) == pytest.approx((high - low) / math.sqrt(12), rel=0.03)
    assert float((at.mirror == 1).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert (drawn(99, Augmentation(flip=False), random, CPU).mirror == 1).all()


# --- losses and errors


TRUTH = torch.tensor([[[2.0, 0.0], [4.0, 1.0]]])
PREDICTED = torch.tensor([[[2.5, 9.0], [3.0, 0.0]]])


def test_losses_by_hand() -> None:
    assert float(l2(PREDICTED, TRUTH)) == pytest.approx((0.25 + 1 + 1) / 3)
    c = 1 / 5
    assert float(berhu(PREDICTED, TRUTH)) == pytest.approx(((0.25 + c * c) + 2 * (1 + c * c)) / (2 * c) / 3)
    close = TRUTH + torch.tensor([0.1, 1.0])
    # |x| = 0.1 and 0.1 are below a fifth of the largest, 1
    assert float(berhu(close, TRUTH)) == pytest.approx((0.1 + 0.1 + (1 + c * c) / (2 * c)) / 3)
    assert float(berhu(TRUTH, TRUTH)) == 0


def test_errors_by_hand_whatever_the_batches() -> None:
    whole = Errors()
    whole.add(PREDICTED, TRUTH)
    told = whole.means()
    assert told["rmse"] == pytest.approx(math.sqrt((0.25 + 1 + 1) / 3))
    assert told["rel"] == pytest.approx((0.25 + 0.25 + 1) / 3)
    # what is predicted at 0 counts as 1 cm there
    assert told["log10"] == pytest.approx((math.log10(1.25) + math.log10(4 / 3) + 2) / 3)
    assert (told["delta1"], told["delta2"], told["delta3"]) == pytest.approx((0, 2 / 3, 2 / 3))
    parts = Errors()
    parts.add(PREDICTED[:, :1], TRUTH[:, :1])  # one reading, and two in the other
    parts.add(PREDICTED[:, 1:], TRUTH[:, 1:])
    assert parts.means() == pytest.approx(told)
    with pytest.raises(RunError, match="no pixel that was evaluated has a reading"):
        Errors().means()


def test_the_mean_depth_is_a_baseline_of_its_own(tmp_path: Path) -> None:
    task = made(tmp_path / "data", validation=0.0)
    train, val, _ = read(str(tmp_path / "data"))
    size = (34, 51)
    deep = [reduced(*pairs.read(i), size)[1] for pairs in (train, val) for i in range(len(pairs))]
    mean = torch.cat([d[d > 0] for d in deep[: len(train)]]).double().mean()
    window = [d[1:33, 1:49] for d in deep[len(train) :]]  # 32 x 48 in the middle of 34 x 51, to the pixel or half of it
    by_hand = torch.cat([(d[d > 0] - mean).square() for d in window]).mean().sqrt()
    assert errors_of_mean(task.training, task.test, (32, 48), 4)["rmse"] == pytest.approx(float(by_hand), rel=0.01)


# --- the task


def test_frames_without_a_reading_are_skipped_counted_and_told_once(tmp_path: Path) -> None:
    scenes(tmp_path)
    for i in range(3):
        with h5py.File(tmp_path / f"train/den_1/{i:05d}.h5", "r+") as file:
            file["depth"][()] = np.zeros((48, 64), np.float32)
    task = made(tmp_path, validation=0.0)
    model = task.model()
    with pytest.warns(UserWarning, match="without a reading in view are skipped") as told:
        sizes = [len(truth) for _, truth in task.batches(model, 1)]
    assert (sum(sizes), task.log(), len(told)) == (13, {"skipped": 3}, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images, truth in task.batches(model, 2):
            assert len(images) == len(truth)
            assert (truth > 0).flatten(1).any(1).all()
    for path in (tmp_path / "val/hall").iterdir():
        with h5py.File(path, "r+") as file:
            file["depth"][()] = np.full((48, 64), np.nan, np.float32)
    with pytest.raises(ValueError, match=r"no pixel of the split val has a reading: depths are all 0 or not finite"):
        made(tmp_path)


def test_scoring_batches_are_training_frames_as_they_are(tmp_path: Path) -> None:
    task = made(tmp_path / "data")
    model = task.model()
    state = torch.get_rng_state()
    batches = task.scoring_batches(model, 2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(truth) for _, truth in batches] == [4, 4]
    plain, _ = zip(*task.training.batches(torch.arange(len(task.training)), 1, CPU), strict=True)
    known = [images_seen(image, middle(1, CPU), (32, 48))[0] for image in plain]
    for images, truth in batches:
        assert truth.shape[1:] == (16, 32)
        assert all(any(torch.equal(image, each) for each in known) for image in images)


@pytest.mark.parametrize("method", ["earlycrop-s", pytest.param("earlycrop-u", marks=pytest.mark.slow)])
def test_a_run_is_cut_and_stopped_and_resumed_ends_in_the_same_numbers(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcrn, "_resnet", Narrow)
    scenes(tmp_path / "data")
    options = replace(SMALL, data=str(tmp_path / "data"), method=method, sparsity=0.6, rounds=2, trigger="2")

    def run(where: str, last: int) -> Any:
        store = Store(tmp_path / where, configuration("nyu", options))

        def report(epoch: int, line: dict[str, Any]) -> None:
            if epoch == last:
                raise KeyboardInterrupt

        try:
            return _run.run("nyu", nyu.make(options), options, store, report)
        finally:
            store.close()

    whole = run("whole", 99)
    for last in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run("stopped", last)
    assert run("stopped", 99).value == whole.value
    assert (whole.pruned_epoch, whole.metric, whole.higher_is_better, whole.split) == (2, "rmse", False, "val")
    assert whole.weight_sparsity >= 0.6
    logs = [next((tmp_path / w).glob("*/log.jsonl")).read_text().splitlines() for w in ("whole", "stopped")]
    for a, b in zip(*(map(json.loads, log) for log in logs), strict=True):
        assert (a["loss"], a["validation_rmse"]) == (b["loss"], b["validation_rmse"])


def test_it_learns_what_tells_the_depth_and_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcrn, "_resnet", Narrow)
    scenes(tmp_path / "data")
    given = ["--encoder", "resnet18", "--no-pretrained", "--size", "32", "48", "--batch", "4", "--epochs", "12"]
    given += ["--learning-rate", "1e-2", "--validation", "0", "--scoring", "1", "--data", str(tmp_path / "data")]
    given += ["--runs", str(tmp_path / "runs"), "--record", "--scale", "1", "--colour", "0"]
    pruned = [*given, "--method", "earlycrop-s", "--sparsity", "0.5"]
    with pytest.warns(UserWarning, match=r"depths.png lacks dense predictions: .*runs has no dense run"):
        alone = _cli.main("nyu", pruned)
    dense = _cli.main("nyu", [*given, "--method", "dense"])
    folder = {result.method: tmp_path / "runs" / result.run for result in (alone, dense)}
    told = json.loads((folder["dense"] / "metrics.json").read_text())
    assert told["val"]["rmse"] == dense.value
    assert dense.value < 0.8 * told["val, by the training mean"]["rmse"]
    widths = {"alone": imread(folder["earlycrop-s"] / "depths.png").shape[1]}
    _cli.main("nyu", pruned)  # it is finished, and now there is a dense run beside it
    widths |= {name: imread(path / "depths.png").shape[1] for name, path in folder.items()}
    assert widths["dense"] == widths["alone"] < widths["earlycrop-s"]
    assert imread(folder["earlycrop-s"] / "depths.png").std() > 0.04


@pytest.mark.skipif(not REAL.is_dir(), reason="the kitchen is not here")
def test_the_real_kitchen_is_read() -> None:
    train, val, name = read(str(REAL))
    assert (len(train), len(val), name) == (234, 100, "rgbd-kitchen")
    rgb, depth = train.read(0)
    assert (rgb.shape, depth.shape) == ((3, 480, 640), (480, 640))
    assert 0.3 < depth[depth > 0].mean() < 10
