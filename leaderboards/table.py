"""The tables: a task's CSV with a row a run, and what is shown of it, a line a method."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from leaderboards.records import Record
from tasks.runner.branching import FREE
from tasks.runner.options import VARIANTS
from tasks.runner.result import KINDS, Result

RECIPE = ["task", "dataset", "preset", "network", "metric", "higher_is_better", "split", "epochs"]
"""What runs share that may be compared with each other, and with dense."""
COLUMNS = (
    "weight_sparsity", "node_sparsity", "parameters", "macs", "batch_ms", "train_seconds", "emissions_g", "step_bytes",
    "pruned_epoch",
)  # fmt: skip
"""What a table tells the means of, beside the metric."""
VARIES = {"method", "sparsity", "of", "seed", "device", "task", "watch", "kernel", *VARIANTS}
"""Options that tell the runs of one table apart by intent."""


def frame(results: Iterable[Result]) -> pd.DataFrame:
    """A row a run, sorted by method, sparsity (dense first), seed."""
    rows = pd.DataFrame([asdict(result) for result in results], columns=list(KINDS))
    integers = ("pruned_epoch", "epochs_trained", "dense_macs", "step_bytes", "dense_step_bytes")
    rows = rows.astype({**dict.fromkeys(integers, "Int64"), "sparsity_asked": "float64"})
    order = ["method", "variant", "sparsity_asked", "seed", "run"]
    return rows.sort_values(order, na_position="first", ignore_index=True)


def labels(rows: pd.DataFrame) -> pd.Series[str]:
    """The method of each row, with its variant where it has one."""
    return rows["method"].where(rows["variant"] == "", rows["method"] + " (" + rows["variant"] + ")")


def csv_text(results: Iterable[Result]) -> str:
    """The leaderboard's CSV; floats are written so that they read back equal, None as an empty cell."""
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
    """The runs split into groups that may be compared; dense runs are in every group of their recipe."""
    for _, rows in frame(results).groupby(RECIPE):
        dense, pruned = rows[rows["method"] == "dense"], rows[rows["method"] != "dense"]
        if pruned.empty:
            yield Group(rows=dense)
        for _, part in pruned.groupby(["sparsity_of", "sparsity_asked"]):
            yield Group(rows=pd.concat([dense, part]) if len(dense) else part)


def summary(group: Group) -> pd.DataFrame:
    """A line a method, dense first and then by rank: means over seeds, sample deviation, gap to dense. Several runs of
    one seed count as one, with their means.

    What cannot be told is missing: a deviation of one seed, a gap without dense runs, a time of several devices,
    emissions by several countries or that not all runs have measured in one way.
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
    is_dense = lines.index == "dense"
    lines["gap"] = lines["mean"] - lines.loc[is_dense, "mean"].mean()
    higher = bool(group.rows["higher_is_better"].iloc[0])
    lines["rank"] = lines.loc[~is_dense, "mean"].rank(ascending=not higher, method="min")
    return lines.sort_values(["rank", "method"], na_position="first")


def study_text(results: Iterable[Result]) -> str:
    """A study's CSV: a line a method (or variant of one) in each group of comparable runs, by rank, and the ids of the
    runs that it is made of.
    """
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
    """The ids of the runs that a study's CSV is made of; none where there is no such file, or an older one."""
    rows = pd.read_csv(table, dtype=str) if table.exists() else pd.DataFrame()
    return {run for runs in rows.get("runs", []) for run in str(runs).split()}


def differing(records: Iterable[Record]) -> list[str]:
    """Options, other than those a table is about, in which runs differ: ``lr: 0.001, 0.01``.

    What a configuration leaves out is at its default; dense runs have no options of pruning to differ in.
    """
    values: dict[str, set[str]] = {}
    configs = [record.config for record in records]
    for key in {key for config in configs for key in config}:
        asked = (c for c in configs if not (key in FREE and c.get("method") == "dense"))
        values[key] = {str(c.get(key, "default")) for c in asked}
    return [f"{key}: {', '.join(sorted(v))}" for key, v in sorted(values.items()) if key not in VARIES and len(v) > 1]


def decimals(top: float) -> int:
    """Digits after the point for values of which ``top`` is the largest."""
    return 1 if top >= 100 else 2 if top >= 10 else 4


def short(number: float) -> str:
    """Three digits and a unit: 34.1k, 1.2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def show(group: Group, records: dict[str, Record], console: Console, price: float | None = None) -> None:
    """Print the group's table; on a narrow terminal as two, results and costs, that repeat the method.

    ``price``: what an hour of training costs.
    """
    results, costs = _columns(group, price)
    table, lead = _table(group.title, {**results, **costs}), dict(list(results.items())[:2])
    if Measurement.get(console, console.options.update(max_width=1000), table).maximum <= console.width:
        console.print(table)
    else:
        console.print(_table(group.title, results))
        console.print(_table(None, {**lead, **costs}))
    first = group.rows.iloc[0]
    better = "higher" if first["higher_is_better"] else "lower"
    devices = ", ".join(sorted(set(group.rows["device"])))
    console.print(
        f"{first['metric']} on {first['split']}, {better} is better; mean ± sample deviation over seeds; "
        f"gap: difference to dense; device: {devices}",
        style="dim", highlight=False,
    )  # fmt: skip
    if settings := differing(records[run] for run in group.rows["run"]):
        console.print(f"Careful, settings differ between these runs: {'; '.join(settings)}", style="yellow")
    console.print()


def _columns(group: Group, price: float | None) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    lines = summary(group)
    digits = decimals(lines["mean"].abs().max())

    def column(name: str, form: str = "", scale: float = 1) -> list[str]:
        return ["-" if pd.isna(v) else format(scale * v, form) if form else short(v) for v in lines[name]]

    spread = ["" if pd.isna(std) else f" ± {std:.{digits}f}" for std in lines["std"]]
    arrow = "↑" if group.rows["higher_is_better"].iloc[0] else "↓"
    results: dict[str, list[str]] = {
        "#": column("rank", ".0f"),
        "method": [str(method) for method in lines.index],
        "seeds": column("seeds", "d"),
        f"{group.rows['metric'].iloc[0]} {arrow}": [
            mean + std for mean, std in zip(column("mean", f".{digits}f"), spread, strict=True)
        ],
        "gap": column("gap", f"+.{digits}f"),
        "weights\ncut %": column("weight_sparsity", ".2f", 100),
        "nodes\ncut %": column("node_sparsity", ".2f", 100),
    }
    costs = {
        "params": column("parameters"),
        "MACs": column("macs"),
        "batch\nms": column("batch_ms"),
        "train\ns": column("train_seconds"),
        "cut at\nepoch": column("pruned_epoch", ".1f"),
    }
    if lines["emissions_g"].notna().any():
        costs["CO2\ng"] = column("emissions_g")
    if price is not None:
        costs["cost"] = column("train_seconds", ".4g", price / 3600)
    return results, costs


def _table(title: str | None, columns: dict[str, list[str]]) -> Table:
    options: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "title_justify": "left"}
    table = Table(title=title, title_style="bold", **options)
    for name in columns:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=name != "method")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row, style="bold" if row[0] == "1" else None)
    return table
