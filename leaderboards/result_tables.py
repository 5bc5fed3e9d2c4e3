"""The tables of results in README and docs, made from the committed CSVs: ``python -m leaderboards tables``.

A table stands between ``<!-- table: NAME ... -->`` and ``<!-- /table -->``; the sentences around it are by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from leaderboards.records import write_text
from leaderboards.table import cap_note, short, with_spread

PAGES = ("README.md", "docs/results.md")
"""The files with tables, seen from the folder that the leaderboards' folder lies in."""
PLACE = re.compile(r"(?P<start><!-- table: (?P<name>[\w-]+)[^>]*-->\n)(?P<old>.*?)(?P<end><!-- /table -->)", re.DOTALL)

SCORES = {
    "cifar10": "ResNet8 on 5,000 images of CIFAR-10, 90 %: accuracy",
    "ptb": "pointer LSTM on 100,000 words, 90 %: perplexity",
}
"""Task -> head of its column."""
FORMS = {
    "dense": "`dense`",
    "random-s": "`random-s`",
    "earlycrop-s": "as it is: columns, the batch's statistics",
    "earlycrop-s (gate rows)": "`--gate rows`: the paper's, with running statistics",
    "earlycrop-s (gate rows, statistics batch)": "`--gate rows --statistics batch`",
    "earlycrop-s (statistics running)": "`--statistics running`",
    "earlycrop-s (gate norms)": "`--gate norms`",
    "earlycrop-s (gate norms, statistics running)": "`--gate norms --statistics running`",
    "earlycrop-s (criterion crop-flow)": "`--criterion crop-flow`: without the g g of a gate",
    "earlycrop-s (criterion crop-gate)": "`--criterion crop-gate`: eq. 6, gates only",
    "earlycrop-s (criterion snip)": "`--criterion snip`",
    "earlycrop-s (criterion crop-flow, gate rows)": "`--criterion crop-flow --gate rows`",
    "earlycrop-s (criterion crop-gate, gate rows)": "`--criterion crop-gate --gate rows`",
    "earlycrop-s (criterion snip, gate rows)": "`--criterion snip --gate rows`",
    "earlycrop-s (gate rows, shuffled True)": "`--gate rows --shuffled`: as many of each layer, at random",
    "earlycrop-s (gate rows, optimizer state reset)": "`--gate rows --optimizer-state reset`",
    "earlycrop-s (gate rows, schedule restart)": "`--gate rows --schedule restart`",
    "earlycrop-s (gate rows, optimizer state reset, schedule restart)": "`--gate rows`, both",
}
"""A study's method, in the words of its CSV -> what the table calls it."""

SETTINGS = {
    "cifar10": "ResNet8 on 5,000 images of CIFAR-10, 90 %: accuracy",
    "digits": "small convolutional network on digits, 95 %: accuracy",
    "cartpole": "CartPole, 99 %: return",
}
"""Task -> head of its column in the table of defaults."""
CHOICES = {
    "dense": "`dense`",
    "random-s": "`random-s`",
    "earlycrop-s": "columns, the batch's statistics, `--schedule keep`",
    "earlycrop-s (schedule after-cut)": "columns, the batch's statistics",
    "earlycrop-s (schedule after-cut, early batches 0.4)": "the same, early rounds on 2 of 5 batches",
    "earlycrop-s (gate rows, statistics batch, schedule after-cut)": "rows, the batch's statistics",
    "earlycrop-s (statistics running, schedule after-cut)": "columns, running statistics",
    "earlycrop-s (gate rows, schedule after-cut)": "rows, running statistics",
}
"""Method of the study of defaults -> what the table calls it."""


class ControlColumn(NamedTuple):
    """A column of the table of control tasks."""

    head: str
    dataset: str
    asked: float
    study: str
    """Name of the CSV of runs as they are now."""
    earlier: str | None = "terms"
    """Name of the CSV of runs with raw observations."""


CONTROL_COLUMNS = (
    ControlColumn("CartPole, 90 %", "CartPole-v1", 0.9, "observations"),
    ControlColumn("95 %", "CartPole-v1", 0.95, "observations", None),
    ControlColumn("95 %, a million steps", "CartPole-v1", 0.95, "million"),
    ControlColumn("98 %", "CartPole-v1", 0.98, "observations", None),
    ControlColumn("Acrobot, 90 %", "Acrobot-v1", 0.9, "observations"),
    ControlColumn("95 %", "Acrobot-v1", 0.95, "observations"),
)
CONTROL_METHODS = {
    "`earlycrop-u`, the sum of the terms, raw observations": ("earlycrop-u (criterion crop-sum, {})", True),
    "`earlycrop-u`, raw observations": ("earlycrop-u ({})", True),
    "`earlycrop-u`": ("earlycrop-u ({})", False),
    **{f"`{name}`": (f"{name} ({{}})", False) for name in ("cropit-u", "crop-u", "snip", "random-u")},
}
"""Name in the table of control tasks -> method in the CSVs, but for its schedule, and whether of the earlier study."""

GLUE = {"RTE": "accuracy", "MRPC": "accuracy", "STS-B": "Pearson", "CoLA": "Matthews"}
"""Task -> its metric, as its column's head has it."""
ENCODER = {
    "dense": "`dense`",
    "earlycrop-s": "`earlycrop-s`, half of heads and neurons",
    "magnitude-s": "`magnitude-s`, the same",
    "earlycrop-u": "`earlycrop-u`, 70 % of the weights outside the embeddings",
    "magnitude-u": "`magnitude-u`, the same",
}
"""Method -> what the table calls it."""


class Setting(NamedTuple):
    """A line of the table that README has of all tasks."""

    title: str
    removed: str
    table: str
    """Name of the study's CSV."""
    dataset: str
    asked: float
    ours: str
    other: str
    """The method that it is compared with, in the words of the CSV."""
    form: str
    """The unit of the metric, such as ``%`` for shares of 1, or the digits after the point."""


OVERVIEW = (
    Setting("CartPole, policy of 3 layers: return", "90 % of the weights", "observations", "CartPole-v1", 0.9,
            "earlycrop-u (schedule after-cut)", "random-u (schedule after-cut)", "0"),
    Setting("the same", "98 % of the weights", "observations", "CartPole-v1", 0.98,
            "earlycrop-u (schedule after-cut)", "random-u (schedule after-cut)", "0"),
    Setting("MRPC, BERT of 6 layers: accuracy", "half of heads and neurons", "minilm", "MRPC", 0.3,
            "earlycrop-s", "magnitude-s", "%"),
    Setting("STS-B, the same: Pearson correlation", "half of heads and neurons", "minilm", "STS-B", 0.3,
            "earlycrop-s", "magnitude-s", "3"),
    Setting("CIFAR-10, 5,000 images, ResNet8: accuracy", "90 %, channels", "scores", "CIFAR-10", 0.9,
            "earlycrop-s", "random-s", "%"),
    Setting("words, 100,000, pointer LSTM: perplexity", "90 %, LSTM units", "scores",
            "ptb, 100000 words, 2000 known", 0.9,
            "earlycrop-s", "random-s", "1"),
    Setting("depth of a kitchen, ResNet18: RMSE in m", "99 %, channels", "kitchen", "rgbd-kitchen", 0.99,
            "earlycrop-s", "random-s", "3"),
)  # fmt: skip

Line = dict[Any, Any]
"""A line of a study's CSV."""


def overview(out: Path) -> str:
    """Return a line a setting of several studies: dense, EarlyCroP, and a simpler method."""
    rows = [["task, network: metric", "removed", "dense", "EarlyCroP", "a simpler method"]]
    for setting in OVERVIEW:
        lines = _lines(out / "tables" / f"{setting.table}.csv")
        cells = []
        for method in ("dense", setting.ours, setting.other):
            key = [line for line in lines if _fits(line, setting, method)]
            if len(key) != 1:
                what = f"{method} on {setting.dataset} at {setting.asked:g}"
                raise ValueError(f"{setting.table}.csv: the table needs one line of {what}, and there are {len(key)}")
            cells.append(_metric(key[0], setting.form) + _epoch(key[0]))
        name = setting.other.partition(" ")[0]
        rows.append([setting.title, setting.removed, *cells[:2], f"`{name}` {cells[2]}"])
    return _markdown(rows)


def _fits(line: Line, setting: Setting, method: str) -> bool:
    of = (line["method"], line["dataset"], float(line["sparsity_asked"]))
    return of == (method, setting.dataset, setting.asked)


def _metric(line: Line, form: str) -> str:
    if form == "%":
        return f"{_spread(100 * line['mean'], 100 * line['std'], 1)} %"
    return _spread(line["mean"], line["std"], int(form))


def _epoch(line: Line) -> str:
    """Return how many of the seeds were pruned at the cap, if any were."""
    return cap_note(int(line["at_cap"]), int(line["seeds"]))


def scores(out: Path) -> str:
    """Return the forms of earlycrop-s's score on three tasks; a form that a task does not have is a dash."""

    def cell(line: Line) -> str:
        scale, unit = (100, " %") if line["metric"] == "accuracy" else (1, "")
        return _spread(scale * line["mean"], scale * line["std"], 1) + unit

    return _table(out / "tables" / "scores.csv", "task", SCORES, FORMS, cell, "`earlycrop-s`, and one thing changed")


def defaults(out: Path) -> str:
    """Return the candidates for the defaults of gate, statistics and schedule, by validation data on tuning seeds."""

    def cell(line: Line) -> str:
        scale, unit = (100, " %") if line["metric"] == "accuracy" else (1, "")
        return f"{_spread(scale * line['mean'], scale * line['std'], 1)}{unit} ({int(line['seeds'])})"

    return _table(out / "tables" / "defaults.csv", "task", SETTINGS, CHOICES, cell, "`earlycrop-s`: gate, statistics")


def control(out: Path) -> str:
    """Return single weights of the policies of control tasks: return by method, sparsity and how they are scored."""
    rows = [["method", *(column.head for column in CONTROL_COLUMNS)]]
    for name, (method, is_earlier) in CONTROL_METHODS.items():
        cells = []
        for column in CONTROL_COLUMNS:
            study = column.earlier if is_earlier else column.study
            lines = [] if study is None else _lines(out / "tables" / f"{study}.csv")
            key = (method.format("schedule after-cut"), column.dataset, column.asked)
            line = [x for x in lines if (x["method"], x["dataset"], float(x["sparsity_asked"])) == key]
            cells.append(f"{_spread(line[0]['mean'], line[0]['std'], 1)} ({line[0]['seeds']})" if line else "-")
        rows.append([name, *cells])
    return _markdown(rows)


WHEN = {
    "dense": "`dense`",
    **{
        f"earlycrop-s (trigger {epoch}, schedule after-cut)": f"after epoch {epoch}" for epoch in (0, 1, 2, 4, 6, 8, 10)
    },
    "earlycrop-s (schedule after-cut)": "by its own trigger",
    "dense (schedule constant)": "never, and the learning rate held to the end",
}
"""Method of the study of when to prune images -> what the table calls it."""


def when(out: Path) -> str:
    """Return the accuracy by the epoch of the cut."""
    head = {"CIFAR-10": "ResNet8 on 5,000 images of CIFAR-10, 90 %: accuracy"}

    def cell(line: Line) -> str:
        return f"{_metric(line, '%')} ({int(line['seeds'])})"

    return _table(out / "tables" / "when-images.csv", "dataset", head, WHEN, cell, "`earlycrop-s` cuts")


def kitchen(out: Path) -> str:
    """Return the depth of one room: each method's error and multiply-accumulates, by what was cut."""

    def cells(line: Line) -> str:
        macs = short(line["macs"])
        return f"{line['mean']:.3f} | {macs[:-1]} {macs[-1]}"

    heads = {share: f"{100 * share:g} % removed: RMSE, m | MACs" for share in (0.9, 0.99)}
    return _table(out / "tables" / "kitchen.csv", "sparsity_asked", heads, None, cells, blank="- | -")


def minilm(out: Path) -> str:
    """Return a small BERT on tasks of GLUE: each method's metric, whatever it removes."""
    heads = {task: f"{task}: {metric}" for task, metric in GLUE.items()}
    table = out / "tables" / "minilm.csv"
    return _table(table, "dataset", heads, ENCODER, lambda line: _spread(line["mean"], line["std"], 3))


def _table(
    path: Path, column: str, heads: dict[Any, str], methods: dict[str, str] | None, cell: Callable[[Line], str],
    first: str = "method", blank: str = "-",
) -> str:  # fmt: skip
    """Return a Markdown table of a study's CSV: a row a method, a column a value of one of the CSV's columns.

    ``heads`` are by value, and ``methods``, by default all, the names in the table. ``cell`` formats a line of the CSV.
    """
    lines = {(line["method"], line[column]): line for line in _lines(path)}
    if lacking := [str(value) for value in heads if ("dense", value) not in lines]:
        raise ValueError(f"{path}: its table needs results of dense for {', '.join(lacking)}, and there are none")
    rows = [[first, *heads.values()]]
    for method, name in (methods or {method: f"`{method}`" for method, _ in lines}).items():
        row = [lines.get((method, value)) for value in heads]
        capped = [line["at_cap"] >= line["seeds"] for line in row if line is not None and line["at_cap"]]
        note = "" if not capped else ", at the cap" if all(capped) else ", partly at the cap"
        rows.append([name + note, *(blank if line is None else cell(line) for line in row)])
    return _markdown(rows)


def _lines(path: Path) -> list[Line]:
    if not path.exists():
        raise ValueError(f"{path}: missing")
    return pd.read_csv(path).to_dict("records")


def _markdown(rows: list[list[str]]) -> str:
    head, *others = (f"| {' | '.join(row)} |\n" for row in rows)
    return "".join([head, "|" + "---|" * (head.count("|") - 1) + "\n", *others])


def _spread(mean: float, std: float, digits: int) -> str:
    return with_spread([mean], [std], digits)[0]


TABLES: dict[str, Callable[[Path], str]] = {
    "overview": overview, "scores": scores, "defaults": defaults, "control": control, "when": when, "kitchen": kitchen,
    "minilm": minilm,
}  # fmt: skip
"""Name in a page's marker -> table of the leaderboards in a folder; raises ValueError where a CSV lacks its runs."""


def rewritten(text: str, out: Path) -> tuple[str, list[str]]:
    """Return a page with its tables made anew, and the names of those that were stale."""
    stale = []

    def table(place: re.Match[str]) -> str:
        name = place["name"]
        if name not in TABLES:
            raise ValueError(f"there is no table {name}: it is one of {', '.join(TABLES)}")
        new = TABLES[name](out)
        if new != place["old"]:
            stale.append(name)
        return place["start"] + new + place["end"]

    return PLACE.sub(table, text), stale


def write(root: Path, out: Path) -> list[str]:
    """Bring the tables of the pages under ``root`` up to date and return the names of those that were not."""
    pages = [root / page for page in PAGES if (root / page).exists()]
    if not pages:
        raise ValueError(f"{root}: has neither {' nor '.join(PAGES)}")
    stale = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if not PLACE.search(text):
            raise ValueError(f"{page}: has no place for a table, a line such as <!-- table: {next(iter(TABLES))} -->")
        new, changed = rewritten(text, out)
        write_text(page, new)
        stale += changed
    return stale


def problems(root: Path, out: Path) -> Iterator[str]:
    """Yield a sentence for every table that is not what the CSVs say; none for pages that are not there."""
    for page in (root / page for page in PAGES):
        if page.exists():
            try:
                for name in rewritten(page.read_text(encoding="utf-8"), out)[1]:
                    yield f"{page}: table {name} is not what the CSVs say: run `make tables`"
            except ValueError as error:
                yield f"{page}: {error}"
