"""README's tables of results, made from the committed CSVs: ``python -m leaderboards tables``.

A table stands between ``<!-- table: NAME ... -->`` and ``<!-- /table -->``; the sentences around it are by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from leaderboards.table import short
from tasks.runner.atomic_files import replacing

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


def scores(out: Path) -> str:
    """The forms of earlycrop-s's score on three tasks; a form that a task does not have is a dash."""
    path = out / "tables" / "scores.csv"
    rows = _csv(path).to_dict("records")
    lines = {(row["task"], row["method"]): row for row in rows}
    if missing := [task for task in SCORES if (task, "dense") not in lines]:
        raise ValueError(f"{path}: README's table needs the results of {', '.join(missing)}, and there are none")

    def cell(task: str, method: str) -> str:
        line = lines.get((task, method))
        if line is None:
            return "-"
        scale, digits, unit = {"accuracy": (100, 1, " %")}.get(line["metric"], (1, 1, ""))
        return _spread(scale * line["mean"], scale * line["std"], digits) + unit

    head = ["`earlycrop-s`, and one thing changed", *SCORES.values()]
    return markdown(head, ([label, *(cell(task, method) for task in SCORES)] for method, label in FORMS.items()))


def kitchen(out: Path) -> str:
    """Depth of one room: each method's error, and the multiplications that its network has left, by what was cut."""
    path = out / "tables" / "kitchen.csv"
    lines = {(row["method"], row["sparsity_asked"]): row for row in _csv(path).to_dict("records")}
    methods = list(dict.fromkeys(method for method, _ in lines))
    if "dense" not in methods:
        raise ValueError(f"{path}: README's table needs the result of dense, and there is none")
    asked = sorted({share for _, share in lines})

    def cells(method: str, share: float) -> list[str]:
        line = lines.get((method, share))
        return ["-", "-"] if line is None else [f"{line['mean']:.3f}", _count(line["macs"])]

    head = ["method", *(title for share in asked for title in (f"{100 * share:g} % removed: RMSE, m", "MACs"))]
    return markdown(head, ([f"`{m}`", *(cell for share in asked for cell in cells(m, share))] for m in methods))


def minilm(out: Path) -> str:
    """A small BERT on tasks of GLUE: each method's metric, whatever it removes."""
    path = out / "tables" / "minilm.csv"
    lines = {(row["method"], row["dataset"]): row for row in _csv(path).to_dict("records")}
    if missing := [task for task in GLUE if ("dense", task) not in lines]:
        raise ValueError(f"{path}: README's table needs the result of dense on {', '.join(missing)}, and there is none")

    def cell(method: str, task: str) -> str:
        line = lines.get((method, task))
        return "-" if line is None else _spread(line["mean"], line["std"], 3)

    head = ["method", *(f"{task}: {metric}" for task, metric in GLUE.items())]
    return markdown(head, ([label, *(cell(method, task) for task in GLUE)] for method, label in ENCODER.items()))


TABLES: dict[str, Callable[[Path], str]] = {
    "scores": scores, "kitchen": kitchen, "minilm": minilm,
}  # fmt: skip
"""Name in README's marker -> table of the leaderboards in a folder; raises ValueError where a CSV lacks its runs."""


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """A table in Markdown, ending in a newline."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("|" + "|".join(line) + "|\n" if line[0] == "---" else f"| {' | '.join(line)} |\n" for line in lines)


def rewritten(text: str, out: Path) -> Iterator[tuple[str, bool, str]]:
    """Each place's name, whether it is up to date, and its table; raises ValueError for a name that there is not."""
    for place in PLACE.finditer(text):
        name = place["name"]
        if name not in TABLES:
            raise ValueError(f"there is no table {name}: it is one of {', '.join(TABLES)}")
        new = TABLES[name](out)
        yield name, new == place["old"], new


def write(readme: Path, out: Path) -> list[str]:
    """Bring README's tables up to date and return the names of those that were not; raises ValueError for no table."""
    text = _text(readme)
    places = list(rewritten(text, out))
    if not places:
        raise ValueError(f"{readme}: has no place for a table, a line such as <!-- table: {next(iter(TABLES))} -->")
    tables = iter(places)
    with replacing(readme) as path:
        new = PLACE.sub(lambda place: place["start"] + next(tables)[2] + place["end"], text)
        path.write_text(new, encoding="utf-8", newline="\n")
    return [name for name, fresh, _ in places if not fresh]


def problems(readme: Path, out: Path) -> Iterator[str]:
    """A sentence for every table of README that the CSVs no longer say, or that cannot be made; none without README."""
    if not readme.exists():
        return
    try:
        for name, fresh, _ in rewritten(_text(readme), out):
            if not fresh:
                yield f"{readme}: table {name} is not what the CSVs say: run `make tables`"
    except ValueError as error:
        yield f"{readme}: {error}"


def _text(readme: Path) -> str:
    try:
        return readme.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{readme}: cannot be read ({error.strerror})") from None


def _csv(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise ValueError(f"{path}: missing")
    return pd.read_csv(path)


def _spread(mean: float, std: float, digits: int) -> str:
    return f"{mean:.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")


def _count(number: float) -> str:
    text = short(number)
    return f"{text[:-1]} {text[-1]}" if text[-1].isalpha() else text
