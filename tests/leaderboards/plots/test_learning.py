"""The picture of a task: what is drawn, where, and how methods are told apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from earlycrop import METHODS
from leaderboards.plots.learning import band, figure, side_by_side
from leaderboards.plots.style import method_looks
from tests.leaderboards.results import ALL, DENSE, EARLY, records


def test_picture_has_two_panels_a_recipe_with_the_data() -> None:
    other = [replace(result, run=f"v1{result.run}", dataset="CartPole-v1", preset="v1") for result in ALL]
    picture = figure(records(ALL + other, games=100, **{"return": 7}))
    left, right, below, _ = picture.axes
    assert left.get_title("left").startswith("CartPole-v0, preset default")
    assert left.get_title("left").endswith("1 to 3 seeds")
    assert below.get_title("left").startswith("CartPole-v1, preset v1")
    assert (left.get_xlabel(), right.get_xscale()) == ("games played", "log")
    curves = [line for line in left.lines if len(line.get_xydata()) > 1]  # type: ignore[arg-type]
    assert len(curves) == 3
    for line in curves:
        np.testing.assert_array_equal(line.get_xydata(), [[100, 7], [200, 14], [300, 21]])
    # EarlyCroP's cuts after epochs 1, 2, 3 lie at 200 games on average; SNIP's before training has no mark.
    (mark,) = [line for line in left.lines if len(line.get_xydata()) == 1]  # type: ignore[arg-type]
    np.testing.assert_allclose(mark.get_xydata(), [[200, 14]])  # type: ignore[arg-type]
    assert sorted(len(points.get_offsets()) for points in right.collections) == [1, 2, 3]  # type: ignore[arg-type]
    labels = [text.get_text() for text in picture.legends[0].get_texts()]
    assert labels[:3] == ["dense", "earlycrop-s", "snip"]


@pytest.mark.parametrize(("key", "label"), [("perplexity", "perplexity after the epoch"), ("other", "training loss")])
def test_tasks_without_games_show_the_metric_or_the_loss(key: str, label: str) -> None:
    result = replace(DENSE, task="ptb", metric="perplexity", higher_is_better=False)
    left, right = figure(records([result], **{key: 2})).axes
    assert (left.get_xlabel(), left.get_ylabel()) == ("epoch", label)
    assert "lower is better" in right.get_ylabel()


def test_band_covers_only_what_all_seeds_have_reached() -> None:
    one = (np.array([0.0, 10.0, 20.0]), np.array([0.0, 10.0, 20.0]))
    two = (np.array([5.0, 15.0]), np.array([15.0, 25.0]))
    grid, mean, low, high = band([one, two])
    assert grid.tolist() == [5, 10, 15]
    assert (mean.tolist(), low.tolist(), high.tolist()) == ([10, 15, 20], [5, 10, 15], [15, 20, 25])


def test_methods_differ_in_colour_or_line_and_keep_their_looks() -> None:
    methods = {"dense": False, "earlycrop-s": True, "earlycrop-u": False, "snap": True, "snip": False, "mine-s": True}
    looks = method_looks(methods)
    assert len({(look.color, str(look.line)) for look in looks.values()}) == len(methods)
    assert looks["snip"] == method_looks({"snip": False})["snip"]
    assert looks["snip"].color == looks["snap"].color


def test_every_method_is_drawn_without_a_warning() -> None:
    pruned = [replace(EARLY, run=m, method=m, structured=METHODS[m].structured) for m in METHODS if m != "dense"]
    right = figure(records([DENSE, *pruned])).axes[1]
    assert len(right.collections) == len(METHODS)


def test_methods_of_one_size_stand_side_by_side_and_others_where_they_are() -> None:
    shifts = side_by_side({"dense": [1000], "a": [100], "b": [100], "c": [101]})
    assert shifts["dense"] == 1.0
    assert shifts["b"] == 1.0
    assert shifts["a"] * shifts["c"] == pytest.approx(1.0)
    assert shifts["a"] < 1 < shifts["c"]
