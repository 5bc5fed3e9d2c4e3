"""README's tables of results, made from the committed CSVs: ``python -m leaderboards tables``.

A table stands between ``<!-- table: NAME ... -->`` and ``<!-- /table -->``; the sentences around it are by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from leaderboards.records import write_text
from leaderboards.table import short, with_spread

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
"""A study's method, in the words of its CSV -> what README calls it."""

GLUE = {"RTE": "accuracy", "MRPC": "accuracy", "STS-B": "Pearson", "CoLA": "Matthews"}
"""Task -> its metric, as its column's head has it."""
ENCODER = {
    "dense": "`dense`",
    "earlycrop-s": "`earlycrop-s`, half of heads and neurons",
    "magnitude-s": "`magnitude-s`, the same",
    "earlycrop-u": "`earlycrop-u`, 70 % of the weights outside the embeddings",
    "magnitude-u": "`magnitude-u`, the same",
}
"""Method -> what README calls it."""


Line = dict[Any, Any]
"""A line of a study's CSV."""


def scores(out: Path) -> str:
    """Return the forms of earlycrop-s's score on three tasks; a form that a task does not have is a dash."""

    def cell(line: Line) -> str:
        scale, unit = (100, " %") if line["metric"] == "accuracy" else (1, "")
        return _spread(scale * line["mean"], scale * line["std"], 1) + unit

    return _table(out / "tables" / "scores.csv", "task", SCORES, FORMS, cell, "`earlycrop-s`, and one thing changed")


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

    ``heads`` are by value, and ``methods``, by default all, the names in README. ``cell`` formats a line of the CSV.
    """
    if not path.exists():
        raise ValueError(f"{path}: missing")
    lines = {(line["method"], line[column]): line for line in pd.read_csv(path).to_dict("records")}
    if lacking := [str(value) for value in heads if ("dense", value) not in lines]:
        raise ValueError(f"{path}: README's table needs results of dense for {', '.join(lacking)}, and there are none")
    rows = [[first, *heads.values()]]
    for method, name in (methods or {method: f"`{method}`" for method, _ in lines}).items():
        row = [lines.get((method, value)) for value in heads]
        capped = [line["at_cap"] >= line["seeds"] for line in row if line is not None and line["at_cap"]]
        note = "" if not capped else ", at the cap" if all(capped) else ", partly at the cap"
        rows.append([name + note, *(blank if line is None else cell(line) for line in row)])
    head, *others = (f"| {' | '.join(row)} |\n" for row in rows)
    return "".join([head, "|" + "---|" * (head.count("|") - 1) + "\n", *others])


def _spread(mean: float, std: float, digits: int) -> str:
    return with_spread([mean], [std], digits)[0]


TABLES: dict[str, Callable[[Path], str]] = {"scores": scores, "kitchen": kitchen, "minilm": minilm}
"""Name in README's marker -> table of the leaderboards in a folder; raises ValueError where a CSV lacks its runs."""


def rewritten(text: str, out: Path) -> tuple[str, list[str]]:
    """Return README with its tables made anew, and the names of those that were stale."""
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


def write(readme: Path, out: Path) -> list[str]:
    """Bring README's tables up to date and return the names of those that were not."""
    if not readme.exists():
        raise ValueError(f"{readme}: missing")
    text = readme.read_text(encoding="utf-8")
    if not PLACE.search(text):
        raise ValueError(f"{readme}: has no place for a table, a line such as <!-- table: {next(iter(TABLES))} -->")
    new, stale = rewritten(text, out)
    write_text(readme, new)
    return stale


def problems(readme: Path, out: Path) -> Iterator[str]:
    """Yield a sentence for every table of README that is not what the CSVs say; none without README."""
    if readme.exists():
        try:
            for name in rewritten(readme.read_text(encoding="utf-8"), out)[1]:
                yield f"{readme}: table {name} is not what the CSVs say: run `make tables`"
        except ValueError as error:
            yield f"{readme}: {error}"
