"""Every torchvision classifier cut by 40 % of its channels at random, by ours and by torch-pruning, a row each.

Can it, why not, seconds to trace and to cut, peak memory, and how far the small network is from the masked dense one.
Each model and tool runs in a process of its own, on one thread: a batch of one 224 x 224 image (299 for inception_v3),
random weights, evaluation mode. The first trace of a process is timed, in seconds of processor time, after the imports
and a tiny network; building the model is not. Ours cuts with a certificate and without, which the peer does not have.
The peer is used as its README does: ``BasePruner`` with ``pruning_ratio=0.4``, layers of 1000 outputs ignored, its
constructor timed as the trace and ``step()`` as the cut. "Can" asks that the small network is smaller and runs. The
difference is that of one definition for both: the dense network, with all that was removed at zero. What cuts through a
layer norm differs from it by design, since the norm's mean and variance are then taken over fewer channels. For it, the
weights are made such that every layer matters: batch norms know the statistics of a batch, and no matrix is zero.

What the file has is kept, unless ``--fresh``. Needs torch-pruning (``pip install '.[bench]'``).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any, Literal

from benchmarks.command_line import BenchmarkOptions, require_installed, require_known, run
from benchmarks.results import Results
from earlycrop.utils.torchvision_compat import load_torchvision

FIGURES = (
    "parameters", "can", "why", "trace_seconds", "cut_seconds", "certified_seconds", "resident_mb", "peak_mb",
    "parameters_left", "difference", "effect", "repeats",
)  # fmt: skip
"""What is measured of a model and tool. can: yes or no. Seconds are processor seconds, the median of as many
processes as repeats says, or, where the first one could not, its own.
cut_seconds: without, certified_seconds: with the certificate. resident_mb: before the trace; peak_mb: of trace and cut.
difference: between the small and the masked dense network, effect: between the small and the dense one; both relative
to the largest output."""
ZOO = load_torchvision("torchvision.models")
PACKAGES = {"ours": ["torchvision"], "peer": ["torchvision", "torch-pruning"]}


@dataclass(frozen=True, kw_only=True)
class Options(BenchmarkOptions):
    """What to measure."""

    models: tuple[str, ...] = tuple(ZOO.list_models(module=ZOO))
    """torchvision's names."""
    tool: Literal["ours", "peer", "both"] = "both"
    """Whose figures to measure."""
    timeout: int = 300
    """Seconds for one model and tool, building the model not counted."""
    repeats: int = 3
    """Processes of each model and tool, one after the other; their median counts."""
    fresh: bool = False
    """Measure again what the file has."""


QUICK = Options(models=("squeezenet1_1",), timeout=60, repeats=1)


def measure(model: str, tool: str, timeout: int, repeats: int) -> dict[str, Any]:
    """The figures of one model and tool: those of the first process, with the medians of all processes' seconds."""
    figures = [measure_once(model, tool, timeout)]
    while len(figures) < repeats and figures[0]["can"] == "yes":
        figures.append(measure_once(model, tool, timeout))
    seconds = [name for name in figures[0] if name.endswith("_seconds")] if len(figures) > 1 else []
    return figures[0] | {name: median(f[name] for f in figures) for name in seconds} | {"repeats": repeats}


def measure_once(model: str, tool: str, timeout: int) -> dict[str, Any]:
    """The figures that a process of ``benchmarks.surgeon_one`` printed, whatever ended it."""
    command = [sys.executable, "-m", "benchmarks.surgeon_one", model, tool, "--timeout", str(timeout)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    lines = process.stdout.splitlines()
    figures: dict[str, Any] = json.loads(lines[-1]) if lines else {"can": "no", "stage": "building"}
    stage = figures.pop("stage")
    if process.returncode == -signal.SIGALRM:
        if figures["can"] == "no":
            figures["why"] = f"more than {timeout} s in the {stage}"
        if stage in ("trace", "cut"):
            figures[f"{stage}_seconds"] = f">{timeout}"
    elif process.returncode:
        figures |= {"can": "no", "why": f"the process ended with code {process.returncode} in the {stage}"}
    return figures


def seconds_of(row: dict[str, str], cut: str = "cut_seconds") -> float:
    """Seconds of trace and cut."""
    return float(row["trace_seconds"]) + float(row[cut])


def compare(rows: Sequence[dict[str, str]]) -> str:
    """How many models each tool can cut, and how their seconds compare where both can, in a few lines."""
    ours, peer = ({r["model"]: r for r in rows if r["tool"] == tool and r["can"] == "yes"} for tool in PACKAGES)
    slow = [model for model, row in ours.items() if float(row["trace_seconds"]) > 1]
    models = len({row["model"] for row in rows})
    lines = [f"can: ours {len(ours)}, the peer {len(peer)} of {models}; traces above 1 s: {len(slow)} {' '.join(slow)}"]
    both = [model for model in ours if model in peer]
    for cut in ("cut_seconds", "certified_seconds") if both else ():
        ratios = {model: seconds_of(ours[model], cut) / seconds_of(peer[model]) for model in both}
        slower = [model for model, ratio in ratios.items() if ratio > 1]
        lines.append(
            f"trace + {cut.partition('_')[0]} over the peer's, where both can ({len(both)}): median "
            f"{median(ratios.values()):.2f}, largest {max(ratios.values()):.2f}; slower on {len(slower)} "
            + " ".join(slower)
        )
    return "\n".join(line.rstrip() for line in lines)


def main(options: Options) -> None:
    """Measure what the file lacks, and print all that was asked for."""
    require_known("--models", options.models, ZOO.list_models(module=ZOO))
    tools = ("ours", "peer") if options.tool == "both" else (options.tool,)
    if "peer" in tools:
        require_installed("torch_pruning", "torch-pruning", "measure ours alone with --tool ours")
    results = Results("surgeon", options, ["model", "tool"], FIGURES)
    asked = list(product(options.models, tools))
    for model, tool in asked:
        if options.fresh or (model, tool) not in results.rows:
            results.packages = ("earlycrop", *PACKAGES[tool])
            row = {"model": model, "tool": tool, **measure(model, tool, options.timeout, options.repeats)}
            results.add(row, threads=1)
    results.print(asked)
    print(compare([results.rows[key] for key in asked]))


if __name__ == "__main__":
    run("surgeon", main, Options(), QUICK, __doc__)
