"""The tables: a task's CSV with a row a run, and a summary with a line a method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from leaderboards.records import Record
from tasks.runner.options import VARIANTS, ignored_options
from tasks.runner.result import KINDS, Result

RECIPE = ["task", "dataset", "preset", "network", "metric", "higher_is_better", "split", "epochs"]
"""What runs share that may be compared with each other, and with dense."""
COLUMNS = (
    "weight_sparsity", "node_sparsity", "parameters", "macs", "batch_ms", "train_seconds", "emissions_g", "step_bytes",
    "pruned_epoch",
)  # fmt: skip
"""Columns whose means a table shows, beside the metric's."""
VARIES = {"method", "sparsity", "of", "seed", "device", "task", "watch", "kernel", *VARIANTS}
"""Options that tell the runs of one table apart by intent."""
Columns = list[tuple[str, list[Any]]]
"""The heads of a table's columns, and their cells: strings, or rich's Text where a cell has a style."""


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """Return a row a run, sorted by method, sparsity (dense first), seed."""
    rows = pd.DataFrame([asdict(result) for result in results], columns=list(KINDS))
    integers = ("pruned_epoch", "epochs_trained", "dense_macs", "step_bytes", "dense_step_bytes")
    rows = rows.astype({**dict.fromkeys(integers, "Int64"), "sparsity_asked": "float64"})
    order = ["method", "variant", "sparsity_asked", "seed", "run"]
    return rows.sort_values(order, na_position="first", ignore_index=True)


def labels(rows: pd.DataFrame) -> pd.Series[str]:
    """Return the method of each row, with its variant if it has one."""
    return rows["method"].where(rows["variant"] == "", rows["method"] + " (" + rows["variant"] + ")")


def without_shared_options(records: Sequence[Record]) -> list[Record]:
    """Leave out of variants what all pruned runs share, such as the schedule that is their task's default.

    A run does not count whose method ignores the option. Dense runs keep their variant, a constant learning rate.
    """
    pruned = [record.result for record in records if record.result.method != "dense"]
    parts = {part for result in pruned for part in result.variant.split(", ")}
    shared = {part for part in parts if all(part in _parts_or_ignored(result, part) for result in pruned)}
    return [
        record if record.result.method == "dense" else replace(record, result=_without(record.result, shared))
        for record in records
    ]


def _without(result: Result, parts: set[str]) -> Result:
    return replace(result, variant=", ".join(part for part in result.variant.split(", ") if part not in parts))


def _parts_or_ignored(result: Result, part: str) -> list[str]:
    option = part.rpartition(" ")[0].replace(" ", "_")
    return result.variant.split(", ") + [part] * (option in ignored_options(result.method))


def is_dense(names: pd.Index[str]) -> npt.NDArray[np.bool_]:
    """Return which labels are of dense runs, a variant such as a constant learning rate included."""
    return np.array([name.partition(" ")[0] == "dense" for name in names], dtype=bool)


def csv_text(results: Iterable[Result]) -> str:
    """Return the leaderboard's CSV; floats read back equal, None is an empty cell."""
    return frame(results).to_csv(index=False, lineterminator="\n")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that may be compared: one recipe, one asked sparsity, and the recipe's dense runs."""

    rows: pd.DataFrame
    """The runs, as in ``frame``; dense only where the recipe has no pruned run."""

    @property
    def title(self) -> str:
        """Task, data set, preset, asked sparsity and the rest of the recipe."""
        first, asked = self.rows.iloc[0], self.rows["sparsity_asked"].max()
        cut = "dense" if self.of is None else f"{100 * asked:g} % of {self.of} cut"
        return f"{first['dataset']}, preset {first['preset']}, {first['network']}, {cut}, {first['epochs']} epochs"

    @property
    def of(self) -> str | None:
        """What the asked sparsity is a share of; None without a pruned run."""
        of = self.rows.loc[self.rows["sparsity_asked"].notna(), "sparsity_of"]
        return None if of.empty else str(of.iloc[0])

    @property
    def seeds(self) -> str:
        """How many seeds a method has, such as ``3 seeds`` or ``1 to 3 seeds``."""
        counts = self.rows.groupby(labels(self.rows))["seed"].nunique()
        low, high = counts.min(), counts.max()
        return f"{high} seed{'s' * bool(high > 1)}" if low == high else f"{low} to {high} seeds"


def groups(results: Iterable[Result]) -> Iterator[Group]:
    """Split the runs into groups that may be compared; dense runs are in every group of their recipe."""
    for _, rows in frame(results).groupby(RECIPE):
        dense, pruned = rows[rows["method"] == "dense"], rows[rows["method"] != "dense"]
        if pruned.empty:
            yield Group(rows=dense)
        for _, part in pruned.groupby(["sparsity_of", "sparsity_asked"]):
            yield Group(rows=pd.concat([dense, part]) if len(dense) else part)


def at_cap(reason: str | None) -> bool:
    """Return whether a run was pruned at the latest epoch that its trigger allows, for want of a reason before."""
    return isinstance(reason, str) and reason.startswith("latest epoch")


def cap_note(capped: int, runs: int) -> str:
    """Return ", at the cap" if all runs of a method were pruned there, with how many if some were, or nothing."""
    share = "" if capped == runs else f"{capped} of {runs} "
    return f", {share}at the cap" if capped else ""


def summary(group: Group) -> pd.DataFrame:
    """Return a line a method, dense first and then by rank: means over seeds, sample deviation, gap to dense.

    ``at_cap`` is how many of its runs were pruned at the latest epoch for want of a reason before.

    Several runs of one seed count as one, with their means. Missing are: a deviation of one seed, a gap without dense
    runs, a time of several devices, emissions of several countries or that were measured in several ways.
    """
    runs = group.rows.assign(method=labels(group.rows))
    by_method, by_seed = runs.groupby("method"), runs.groupby(["method", "seed"])[["value", *COLUMNS]].mean()
    per_seed = by_seed.groupby("method")
    lines = pd.DataFrame({"seeds": per_seed.size(), "mean": per_seed["value"].mean(), "std": per_seed["value"].std()})
    lines = lines.join(per_seed[list(COLUMNS)].mean())
    by_device = ["batch_ms", "train_seconds", "emissions_g", "step_bytes"]
    lines.loc[by_method["device"].nunique() > 1, by_device] = float("nan")
    of_one_kind = by_method[["emissions_country", "emissions_measured"]].nunique(dropna=False).le(1).all(axis=1)
    lines.loc[~of_one_kind, "emissions_g"] = float("nan")
    lines["at_cap"] = by_method["pruned_why"].agg(lambda reasons: reasons.map(at_cap).sum())
    lines["gap"] = lines["mean"] - lines["mean"].get("dense", float("nan"))
    higher = bool(group.rows["higher_is_better"].iloc[0])
    lines["rank"] = lines.loc[~is_dense(lines.index), "mean"].rank(ascending=not higher, method="min")
    return lines.sort_values(["rank", "method"], na_position="first")


def study_text(results: Iterable[Result]) -> str:
    """Return a study's CSV: a line a method or variant in each group of comparable runs, and the ids of its runs."""
    parts = []
    for group in groups(results):
        first = group.rows.iloc[0]
        recipe = {name: first[name] for name in RECIPE}
        recipe["device"] = ", ".join(sorted(set(group.rows["device"])))
        recipe["sparsity_of"], recipe["sparsity_asked"] = group.of, group.rows["sparsity_asked"].max()
        lines = summary(group)
        lines["runs"] = group.rows.groupby(labels(group.rows))["run"].agg(" ".join)
        lines = lines.reset_index(names="method")
        parts.append(lines.assign(**recipe)[[*recipe, *lines.columns]])
    return pd.concat(parts).to_csv(index=False, lineterminator="\n", float_format="%.6g") if parts else ""


def named(table: Path) -> set[str]:
    """Return the ids of the runs that a study's CSV is made of; none if there is no such file, or an older one."""
    rows = pd.read_csv(table, dtype=str) if table.exists() else pd.DataFrame()
    return {run for runs in rows.get("runs", []) for run in str(runs).split()}


def differing(records: Iterable[Record]) -> list[str]:
    """Return the options, other than those a table is about, in which runs differ: ``lr: 0.001, 0.01``.

    What a configuration leaves out is at its default. Runs do not differ in what their methods ignore.
    """
    values: dict[str, set[str]] = {}
    configs = [record.config for record in records]
    for key in {key for config in configs for key in config}:
        users = (c for c in configs if key not in ignored_options(c.get("method", ""), c.get("criterion", "")))
        values[key] = {str(c.get(key, "default")) for c in users}
    return [f"{key}: {', '.join(sorted(v))}" for key, v in sorted(values.items()) if key not in VARIES and len(v) > 1]


def decimals(top: float) -> int:
    """Return the digits after the point for values of which ``top`` is the largest."""
    return 1 if top >= 100 else 2 if top >= 10 else 4


def short(number: float) -> str:
    """Format a number with three digits and a unit: 34.1k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def cells(values: Iterable[float], form: str = "", scale: float = 1) -> list[str]:
    """Format numbers, in :func:`short` without a ``form``; what is missing is a dash."""
    return ["-" if pd.isna(v) else format(scale * v, form) if form else short(v) for v in values]


def with_spread(means: Iterable[float], deviations: Iterable[float], digits: int) -> list[str]:
    """Format means with their deviations, where they have one: ``95.0 ± 4.6``."""
    spreads = ["" if pd.isna(std) else f" ± {std:.{digits}f}" for std in deviations]
    return [mean + spread for mean, spread in zip(cells(means, f".{digits}f"), spreads, strict=True)]


def show(group: Group, records: dict[str, Record], console: Console, price: float | None = None) -> None:
    """Print the group's table, narrower or as two on a narrow terminal; ``price``: what an hour of training costs."""
    results, costs = _columns(group, price)
    console.print(group.title, style="bold", highlight=False, markup=False)
    for gap in (2, 1):
        table = rich_table(None, results + costs, gap)
        if Measurement.get(console, console.options.update(max_width=1000), table).minimum <= console.width:
            console.print(table)
            break
    else:
        console.print(rich_table(None, results))
        console.print(rich_table(None, results[:2] + costs))
    first = group.rows.iloc[0]
    better = "higher" if first["higher_is_better"] else "lower"
    devices = ", ".join(sorted(set(group.rows["device"])))
    console.print(
        f"{first['metric']} on {first['split']}, {better} is better; mean ± sample deviation over seeds; "
        f"gap: difference to dense; cap: pruned at the latest epoch; device: {devices}",
        style="dim", highlight=False, markup=False,
    )  # fmt: skip
    if settings := differing(records[run] for run in group.rows["run"]):
        console.print(
            f"Careful, settings differ between these runs: {'; '.join(settings)}", style="yellow", markup=False
        )
    console.print()


def _columns(group: Group, price: float | None) -> tuple[Columns, Columns]:
    lines = summary(group)
    digits = decimals(lines["mean"].abs().max())
    arrow = "↑" if group.rows["higher_is_better"].iloc[0] else "↓"
    results = [
        ("#", cells(lines["rank"], ".0f")),
        ("method", [str(method) for method in lines.index]),
        ("seeds", cells(lines["seeds"], "d")),
        (f"{group.rows['metric'].iloc[0]} {arrow}", with_spread(lines["mean"], lines["std"], digits)),
        ("gap", cells(lines["gap"], f"+.{digits}f")),
        ("weights\ncut %", cells(lines["weight_sparsity"], ".2f", 100)),
        ("nodes\ncut %", cells(lines["node_sparsity"], ".2f", 100)),
    ]
    costs = [
        ("params", cells(lines["parameters"])),
        ("MACs", cells(lines["macs"])),
        ("batch\nms", cells(lines["batch_ms"])),
        ("train\ns", cells(lines["train_seconds"])),
        ("cut at\nepoch", _epochs(lines, group)),
    ]
    if lines["emissions_g"].notna().any():
        costs.append(("CO2\ng", cells(lines["emissions_g"])))
    if price is not None:
        costs.append(("cost", cells(lines["train_seconds"], ".4g", price / 3600)))
    return results, costs


def _epochs(lines: pd.DataFrame, group: Group) -> list[str]:
    """Return the mean epoch of each method's pruning, and how many of its runs were pruned at the cap."""
    runs = group.rows.groupby(labels(group.rows)).size()
    texts = []
    for method, epoch, capped in zip(lines.index, cells(lines["pruned_epoch"], ".1f"), lines["at_cap"], strict=True):
        share = "" if capped == runs[method] else f" {capped}/{runs[method]}"
        texts.append(epoch + (f" cap{share}" if capped else ""))
    return texts


def rich_table(title: str | None, columns: Columns, gap: int = 2) -> Table:
    """Return a table for the terminal, with ``gap`` spaces between columns; a line whose first cell is 1 is bold."""
    table = Table(
        title=title and Text(title), title_style="bold", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False,
        collapse_padding=True, padding=(0, gap - 1),
    )  # fmt: skip
    for name, column in columns:
        if name == "method":
            table.add_column(name)
        else:  # rich takes an unbroken column to be as narrow as its longest word
            width = max(Text(line).cell_len for cell in (name, *map(str, column)) for line in cell.split("\n"))
            table.add_column(Text(name), justify="right", no_wrap=True, min_width=width)
    for row in zip(*(column for _, column in columns), strict=True):
        table.add_row(
            *(Text(cell) if isinstance(cell, str) else cell for cell in row), style="bold" if row[0] == "1" else None
        )
    return table
