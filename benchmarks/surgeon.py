"""Every torchvision classifier cut by 40 % of its channels at random, by ours and by torch-pruning, a row a model.

Can it, why not, seconds to trace and to cut, peak memory, and how far the small network is from the masked dense one.
Each model and tool runs in a process of its own, on one thread: a batch of one 224 x 224 image (299 for inception_v3),
random weights, evaluation mode. The first trace of a process is timed, in seconds of processor time, after the imports
and a tiny network; building the model is not. Ours cuts with a certificate and without, which the peer does not have.
The peer is used as its README does: ``BasePruner`` with ``pruning_ratio=0.4``, layers of 1000 outputs ignored, its
constructor timed as the trace and ``step()`` as the cut. "Can" asks that the small network is smaller and runs. The
difference is that of one definition for both: the dense network, with all that was removed at zero. What cuts through a
layer norm differs from it by design, since the norm's mean and variance are then taken over fewer channels. For it, the
weights are made such that every layer matters: batch norms know the statistics of a batch, and no matrix is zero.

Run as ``python -m benchmarks.surgeon [--models resnet18 ...] [--tool ours|peer|both] [--out FILE] [--fresh]``: what the
file has is kept, unless ``--fresh``. Needs ``pip install torch-pruning torchvision``.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from tasks._torchvision import load

FIGURES = (
    "can", "why", "trace_seconds", "cut_seconds", "certified_seconds", "resident_mb", "peak_mb", "parameters_left",
    "difference", "effect",
)  # fmt: skip
"""What is measured of each tool. can: yes or no. Seconds are processor seconds, the median of --repeats processes.
cut_seconds: without, certified_seconds: with the certificate. resident_mb: before the trace; peak_mb: of trace and cut.
difference: between the small and the masked dense network, effect: between the small and the dense one; both relative
to the largest output."""
ZOO = load("torchvision.models")
TOOLS = ("ours", "peer")
COLUMNS = (
    *("model", "parameters", *(f"{tool}_{figure}" for tool in TOOLS for figure in FIGURES)),
    *("machine", "versions", "processes"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    models: tuple[str, ...] = tuple(ZOO.list_models(module=ZOO))
    """torchvision's names."""
    tool: Literal["ours", "peer", "both"] = "both"
    """Whose figures; the other's are kept as the file has them."""
    out: Path = Path("benchmarks/results/surgeon.csv")
    """The table, read and written after every model."""
    timeout: int = 300
    """Seconds for one model and tool, building the model not counted."""
    repeats: int = 3
    """Processes of each model and tool, one after the other; their median counts."""
    fresh: bool = False
    """Measure again what the file has."""


def measured(name: str, tool: str, timeout: int, repeats: int) -> dict[str, Any]:
    """What the processes of one model and tool told: the first one's, with the medians of the seconds."""
    told = [one(name, tool, timeout)]
    while len(told) < repeats and told[0]["can"] == "yes":
        told.append(one(name, tool, timeout))
    seconds = [figure for figure in told[0] if figure.endswith("_seconds")] if len(told) > 1 else []
    return {**told[0], **{figure: round(median(t[figure] for t in told), 3) for figure in seconds}}


def one(name: str, tool: str, timeout: int) -> dict[str, Any]:
    """What the process of one model and tool told."""
    line = [sys.executable, "-m", "benchmarks.surgeon_one", name, tool, str(timeout)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    lines = process.stdout.splitlines()
    told: dict[str, Any] = json.loads(lines[-1]) if lines else {"can": "no", "stage": "building"}
    stage = told.pop("stage")
    if process.returncode == -signal.SIGALRM:
        if told["can"] == "no":
            told["why"] = f"more than {timeout} s in the {stage}"
        if stage in ("trace", "cut"):
            told[f"{stage}_seconds"] = f">{timeout}"
    elif process.returncode:
        told |= {"can": "no", "why": f"the process ended with code {process.returncode} in the {stage}"}
    return told


def machine() -> str:
    cpu = next(
        (x.partition(":")[2].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x),
        "CPU",
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu}; {os.cpu_count()} cores, one used; {memory:.0f} GB; {platform.system()}"


def read(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def write(path: Path, rows: dict[str, dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    with new.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(rows[name] for name in sorted(rows))
    new.replace(path)


def spent(row: dict[str, str], tool: str, cut: str = "cut_seconds") -> float:
    """Seconds of trace and cut."""
    return float(row[f"{tool}_trace_seconds"]) + float(row[f"{tool}_{cut}"])


def goals(rows: list[dict[str, str]]) -> str:
    """The goals, in a few lines."""
    ours_can = [r for r in rows if r.get("ours_can") == "yes"]
    slow = [r["model"] for r in ours_can if float(r["ours_trace_seconds"]) > 1]
    both = [r for r in ours_can if r.get("peer_can") == "yes"]
    peers = sum(r.get("peer_can") == "yes" for r in rows)
    lines = [
        f"can: ours {len(ours_can)}, the peer {peers} of {len(rows)}; traces above 1 s: {len(slow)} {' '.join(slow)}"
    ]
    for cut in ("cut_seconds", "certified_seconds") if both else ():
        ratios = {r["model"]: spent(r, "ours", cut) / spent(r, "peer") for r in both}
        slower = [name for name, ratio in ratios.items() if ratio > 1]
        lines.append(
            f"trace + {cut.partition('_')[0]} over the peer's, where both can ({len(both)}): median "
            f"{median(ratios.values()):.2f}, most {max(ratios.values()):.2f}; slower on {len(slower)} "
            + " ".join(slower)
        )
    return "\n".join(lines)


def shown(rows: list[dict[str, str]]) -> Table:
    table = Table(
        "model", *(f"{tool} {what}" for tool in TOOLS for what in ("", "trace", "cut", "MB", "apart")), "why not"
    )
    for row in rows:
        cells = [row["model"]]
        for tool in TOOLS:
            apart = row.get(f"{tool}_difference") or ""
            cells += [row.get(f"{tool}_{x}") or "" for x in ("can", "trace_seconds", "cut_seconds", "peak_mb")]
            cells.append(f"{float(apart):.1e}" if apart else "")
        table.add_row(*cells, "; ".join(f"{t}: {row[f'{t}_why']}" for t in TOOLS if row.get(f"{t}_why")))
    return table


def main(options: Options) -> None:
    """Measure what the file lacks, and print it all."""
    unknown = set(options.models) - set(ZOO.list_models(module=ZOO))
    if unknown:
        sys.exit(f"error: torchvision has no classifier {', '.join(sorted(unknown))}")
    rows = read(options.out)
    versions = f"python {platform.python_version()}, " + ", ".join(
        f"{package} {version(package)}" for package in ("torch", "torchvision", "torch-pruning", "earlycrop")
    )
    console = Console()
    for name in options.models:
        row = rows.setdefault(name, {"model": name})
        for tool in TOOLS if options.tool == "both" else (options.tool,):
            if row.get(f"{tool}_can") and not options.fresh:
                continue
            told = measured(name, tool, options.timeout, options.repeats)
            row |= {f"{tool}_{figure}": str(told.get(figure, "")) for figure in FIGURES}
            row |= {"parameters": str(told.get("parameters", "")), "machine": machine(), "versions": versions}
            row["processes"] = str(options.repeats)
            write(options.out, rows)
            console.print(name, tool, told, highlight=False)
    asked = [rows[name] for name in options.models]
    console.print(shown(asked))
    console.print(goals(asked))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
