"""The page: all leaderboards as one HTML file that fetches nothing, ``python -m leaderboards page``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from leaderboards.plots.style import method_looks
from leaderboards.records import Record, record_path, write_text
from leaderboards.table import RECIPE, differing, groups, labels, summary

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("vendor/d3.min.js", "vendor/plot.umd.min.js", "words.js", "choice.js", "table.js", "plots.js", "page.js")
"""In the order in which they stand in the page."""
OF_RUN = [
    "run", "seed", "value", "weight_sparsity", "node_sparsity", "parameters", "macs", "batch_ms", "train_seconds",
    "pruned_epoch", "pruned_why",
]  # fmt: skip
"""What the page shows of a single run."""


def write(records: Sequence[Record], out: Path, file: Path) -> Path:
    """Write the page of the records under ``out`` to ``file``; raise ValueError if there are none, or it cannot be."""
    if not records:
        raise ValueError(f"No records found in {out / 'records'}: run `python -m leaderboards` first.")
    text = html(content(records, Path(os.path.relpath(out.absolute(), file.absolute().parent))))
    try:
        write_text(file, text)
    except OSError as error:
        raise ValueError(f"The page cannot be written to {file}: {error.strerror}.") from None
    return file


def content(records: Sequence[Record], out: Path) -> dict[str, Any]:
    """Return what the page shows: its lines, and each method's look; ``out``: the path from the page to the records."""
    looks = method_looks({record.result.method: record.result.structured for record in records})
    return {
        "lines": list(lines(records, out)),
        "looks": {
            method: {"hex": look.color, "color": f"var(--m{at})", "marker": look.marker, "whole": look.line == "-"}
            for at, (method, look) in enumerate(looks.items())
        },
    }


def lines(records: Sequence[Record], out: Path) -> Iterator[dict[str, Any]]:
    """Yield a line a method or variant, recipe, asked sparsity and device; the recipe's dense runs once a device.

    Numbers are those of ``summary`` over the runs of one device, so the gap is to dense runs of that device.
    """
    by_run = {record.result.run: record for record in records}
    for device in sorted({record.result.device for record in records}):
        seen = set()
        for group in groups(record.result for record in records if record.result.device == device):
            rows = group.rows.assign(label=labels(group.rows))
            careful = differing(by_run[run] for run in rows["run"])
            table = summary(group)
            for label, line in table.iterrows():
                runs = rows[rows["label"] == label]
                key = (label, *(runs.iloc[0][name] for name in RECIPE))
                is_dense = runs.iloc[0]["method"] == "dense"
                if is_dense and key in seen:
                    continue
                seen |= {key} if is_dense else set()
                yield {
                    **_about(runs.iloc[0]), **_plain(line), "label": label, "careful": careful,
                    "places": int(table["rank"].notna().sum()), "low": runs["value"].min(), "high": runs["value"].max(),
                    "runs": [_run(run, out) for _, run in runs.iterrows()],
                }  # fmt: skip


def html(data: dict[str, Any]) -> str:
    """Return the page with these data in it."""
    # An escaped < can neither end the script element that the data stand in nor start a comment there.
    parts = {
        "style": _asset("page.css"),
        "looks": "\n".join(_colors(data["looks"])),
        "data": json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        "scripts": "\n".join(f"<script>\n{_asset(name)}\n</script>" for name in SCRIPTS),
        "licences": _asset("vendor/LICENSES.txt"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _asset("page.html"))


def _about(row: pd.Series[Any]) -> dict[str, Any]:
    dense = row["method"] == "dense"
    names = ["task", "dataset", "preset", "network", "metric", "split", "device", "method", "variant", "epochs"]
    return {
        **_plain(row[names]),
        "higher": bool(row["higher_is_better"]),
        "structured": None if dense else bool(row["structured"]),
        "of": None if dense else str(row["sparsity_of"]),
        "asked": None if dense else float(row["sparsity_asked"]),
    }


def _plain(row: pd.Series[Any]) -> dict[str, Any]:
    """Return a row as JSON has it: what is missing is null, and numbers are Python's."""
    return {str(name): None if pd.isna(v) else v.item() if hasattr(v, "item") else v for name, v in row.items()}


def _run(row: pd.Series[Any], out: Path) -> dict[str, Any]:
    record = record_path(out, row["task"], row["run"]).as_posix()
    return _plain(row[OF_RUN]) | {"href": quote(record)}


def _colors(looks: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield a variable a method; on a dark ground colours are mixed with white."""
    for start, form, end in (
        (":root {", "{}", "}"),
        ("@media (prefers-color-scheme: dark) { :root {", "color-mix(in oklab, {} 62%, white)", "} }"),
    ):
        yield start
        for method, look in looks.items():
            name = look["color"].removeprefix("var(").removesuffix(")")
            yield f"  {name}: {'var(--ink)' if method == 'dense' else form.format(look['hex'])};"
        yield end


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8").strip()
