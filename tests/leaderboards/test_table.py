"""Results as JSON, and the numbers of a table of them, worked out by hand."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from leaderboards.plots.learning import plainest
from leaderboards.plots.ranges import end_of_games, shown_range, spread_losses
from leaderboards.records import Record
from leaderboards.table import _columns, at_cap, differing, groups, short, summary, without_shared_options
from tasks.runner.result import KINDS, Result
from tests.leaderboards.results import ALL, DENSE, EARLY, records


def test_result_survives_json_and_every_field_has_a_docstring() -> None:
    assert Result.from_json(EARLY.to_json()) == EARLY
    assert [field.name for field in fields(Result)] == list(KINDS)
    source = Path(__file__).parents[2] / "tasks" / "runner" / "result.py"
    documented = re.findall(r'^    (\w+): [\w |]+(?: = .+)?\n    """', source.read_text(), re.MULTILINE)
    assert documented == list(KINDS)


@pytest.mark.parametrize(
    ("field", "value"),
    [("seed", True), ("seed", 1.0), ("value", None), ("value", float("nan")), ("structured", 1), ("device", 3),
     ("pruned_epoch", "2"), ("sparsity_asked", False), ("epochs", None)],
)  # fmt: skip
def test_ill_typed_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"field {field}: expected"):
        replace(EARLY, **{field: value})
    data = json.loads(EARLY.to_json()) | {field: value}
    with pytest.raises(ValueError, match=f"here.json: field {field}"):
        Result.from_json(json.dumps(data), "here.json")


def test_missing_and_unknown_fields_and_bad_json_are_named_with_the_file() -> None:
    data = json.loads(EARLY.to_json())
    with pytest.raises(ValueError, match=r"r\.json: unknown field colour"):
        Result.from_json(json.dumps(data | {"colour": 1}), "r.json")
    del data["macs"]
    with pytest.raises(ValueError, match=r"r\.json: missing field macs"):
        Result.from_json(json.dumps(data), "r.json")
    with pytest.raises(ValueError, match=r"r\.json:2: not JSON"):
        Result.from_json('{"run": 1,\n oops', "r.json")


def test_summary_is_what_one_gets_by_hand() -> None:
    (group,) = groups(ALL)
    lines = summary(group)
    assert list(lines.index) == ["dense", "snip", "earlycrop-s"]
    early = lines.loc["earlycrop-s"]
    # 90, 96, 99: mean 95, squared deviations 25 + 1 + 16 = 42, over n - 1 = 2.
    assert (early["seeds"], early["mean"], early["std"]) == (3, 95.0, pytest.approx(21**0.5))
    assert early["gap"] == 95.0 - 105.0
    assert (early["parameters"], early["batch_ms"], early["pruned_epoch"]) == (120.0, 3.0, 2.0)
    assert early["node_sparsity"] == pytest.approx(0.6)
    assert lines.loc["dense", "std"] == pytest.approx(50**0.5)
    assert lines["rank"].fillna(0).tolist() == [0, 1, 2]
    assert lines["std"].isna().tolist() == [False, True, False]


def test_several_runs_of_a_seed_count_as_one() -> None:
    (group,) = groups([*ALL, replace(EARLY, run="again", seed=1, value=102.0, batch_ms=5.0)])
    early = summary(group).loc["earlycrop-s"]
    # 90, (96 + 102) / 2, 99
    assert (early["seeds"], early["mean"], early["std"]) == (3, 96.0, pytest.approx(27**0.5))
    assert early["batch_ms"] == pytest.approx(3.0 + (5.0 - 4.0) / 2 / 3)


def test_dense_runs_of_another_training_are_named() -> None:
    config = {"method": "dense", "sparsity": 0.9, "trigger": "knee", "workers": 2}
    records = [
        Record(config=each, result=DENSE, log=[], finished="now")
        for each in (config, {"method": "snip", "multiple": 8})
    ]
    assert differing(records) == ["workers: 2, default"]


def test_lower_is_better_turns_the_ranks() -> None:
    (group,) = groups([replace(result, metric="perplexity", higher_is_better=False) for result in ALL])
    assert list(summary(group).index) == ["dense", "earlycrop-s", "snip"]


def test_dense_of_another_recipe_gives_no_gap() -> None:
    for change in ({"epochs": 4}, {"preset": "v1"}, {"dataset": "CartPole-v1"}):
        parts = list(groups([replace(DENSE, **change), EARLY]))
        lines = next(summary(part) for part in parts if "earlycrop-s" in set(part.rows["method"]))
        assert list(lines.index) == ["earlycrop-s"]
        assert np.isnan(lines["gap"].iloc[0])


def test_every_sparsity_has_its_table_with_the_dense_runs() -> None:
    parts = list(groups([DENSE, EARLY, replace(EARLY, run="e9", sparsity_asked=0.5)]))
    assert [sorted(part.rows["run"]) for part in parts] == [["d0", "e9"], ["d0", "e0"]]


def test_times_of_different_devices_are_not_averaged() -> None:
    (group,) = groups([EARLY, replace(EARLY, run="e1", seed=1, device="gpu")])
    assert summary(group)["batch_ms"].isna().all()


def test_variants_of_a_method_are_lines_of_their_own_and_records_may_lack_later_columns() -> None:
    old = json.loads(EARLY.to_json())
    del old["variant"], old["epochs_trained"]
    assert Result.from_dict(old) == EARLY
    variants = [replace(EARLY, run=f"v{i}", seed=i, value=50.0 + i, variant="gate columns") for i in range(2)]
    lines = summary(next(iter(groups([*ALL, *variants]))))
    assert set(lines.index) == {"dense", "earlycrop-s", "earlycrop-s (gate columns)", "snip"}
    assert lines.loc["earlycrop-s (gate columns)", "mean"] == 50.5
    assert lines.loc["earlycrop-s", "mean"] == 95.0


@pytest.mark.parametrize(("number", "message"), [(34000, "34k"), (999.9, "1k"), (1234567, "1.23M"), (12, "12")])
def test_short_numbers(number: float, message: str) -> None:
    assert short(number) == message


def test_a_pruning_at_the_cap_says_so() -> None:
    capped, fired = "latest epoch 8: the per_rate change stayed above 0.1", "lazy regime: per_rate change 0.09"
    assert [at_cap(reason) for reason in (capped, fired, None)] == [True, False, False]
    late = [replace(EARLY, run=f"l{i}", seed=i, pruned_epoch=8, pruned_why=capped) for i in (0, 1)]
    runs = [
        *late,
        *(replace(late[i], method="earlycrop-u", pruned_why=why) for i, why in enumerate((capped, fired))),
        replace(late[0], method="crop-s", pruned_epoch=0, pruned_why="before training"),
    ]
    (group,) = groups(runs)
    lines = summary(group)
    assert dict(lines["at_cap"]) == {"earlycrop-s": 2, "earlycrop-u": 1, "crop-s": 0}
    _, costs = _columns(group, None)
    cells = dict(zip(lines.index, dict(costs)["cut at\nepoch"], strict=True))
    assert cells == {"earlycrop-s": "8.0 cap", "earlycrop-u": "8.0 cap 1/2", "crop-s": "0.0"}


HELD = replace(EARLY, variant="schedule after-cut")
BY_ROWS = replace(EARLY, run="e1", variant="gate rows, schedule after-cut")
CONSTANT = replace(DENSE, run="d1", variant="schedule after-cut")
REWOUND = replace(EARLY, run="l0", method="ltr")  # which has a schedule of its own


@pytest.mark.parametrize(
    ("results", "variants", "drawn"),
    [
        ([DENSE, HELD, REWOUND], ["", "", ""], {"dense", "earlycrop-s", "ltr"}),
        ([DENSE, HELD, BY_ROWS], ["", "", "gate rows"], {"dense", "earlycrop-s"}),
        ([DENSE, replace(EARLY, run="e2"), HELD], ["", "", "schedule after-cut"], {"dense", "earlycrop-s"}),
        ([BY_ROWS, replace(HELD, method="snap")], ["gate rows", ""], {"earlycrop-s (gate rows)", "snap"}),
        ([DENSE], [""], {"dense"}),
        ([DENSE, CONSTANT, HELD], ["", "schedule after-cut", ""], {"dense", "earlycrop-s"}),
    ],
)  # fmt: skip
def test_a_variant_says_what_tells_runs_apart_and_each_method_is_drawn(
    results: list[Result], variants: list[str], drawn: set[str]
) -> None:
    apart = without_shared_options(records(results))
    assert [record.result.variant for record in apart] == variants
    assert {record.result.method for record in plainest(apart)} == drawn


@pytest.mark.parametrize(
    ("means", "higher", "expected"),
    [
        ([0.86, 0.84, -0.18], True, (0.84, 0.86)),
        ([173.0, 220.0, 240.0, 505.0], False, (173.0, 505.0)),
        ([173.0, 220.0, 5000.0, 9000.0], False, (173.0, 220.0)),
        ([500.0, 500.0, 499.8], True, (499.8, 500.0)),
        ([1.0, 0.1], True, (0.1, 1.0)),
    ],
)
def test_hopeless_values_do_not_squeeze_the_others(
    means: list[float], higher: bool, expected: tuple[float, float]
) -> None:
    assert shown_range(means, higher) == expected


def test_games_of_one_method_do_not_squeeze_the_others() -> None:
    assert end_of_games([1100, 1800, 2000, 12800]) == 3800
    assert end_of_games([1100, 3400]) == 3400


def test_losses_of_many_times_the_size_are_drawn_by_their_logarithm() -> None:
    for lowest, highest, scale in ((0.2, 0.7, "linear"), (0.3, 9, "log"), (0.0, 9, "linear")):
        panel = Figure().subplots()
        spread_losses(panel, lowest, highest)
        assert panel.get_yscale() == scale
