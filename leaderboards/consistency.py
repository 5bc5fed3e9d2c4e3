"""Whether a record agrees with itself: its id, its result, its log and its pruning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from leaderboards.records import Record
from tasks.runner.store import identity

EVENT_FIELDS = {
    "weight_sparsity": "weight_sparsity",
    "node_sparsity": "node_sparsity",
    "pruned_epoch": "epoch",
    "pruned_why": "reason",
    "sparsity_of": "of",
    "sparsity_asked": "asked",
}
"""Field of a result -> that of the last pruning in the log, which says the same."""
TOLERANCE = 1e-9
"""Of shares that are computed from counts."""


def contradictions(record: Record) -> Iterator[tuple[str, str]]:
    """What the record's parts say of each other that does not agree, as pairs of the field and a sentence."""
    row = record.result
    expected = identity({**record.config, "task": row.task}, record.version)
    if row.run != expected:
        yield "run", f"run is {row.run}, but the id of its configuration is {expected}"
    if record.log and "parameters" in record.log[-1] and record.log[-1]["parameters"] != row.parameters:
        yield "parameters", f"parameters is {row.parameters}, but {record.log[-1]['parameters']} at the end of the log"
    if row.dense_macs is not None and not row.structured and row.macs != row.dense_macs:
        yield "macs", f"macs is {row.macs} without a node cut, but {row.dense_macs} in the dense network"
    if row.dense_macs is not None and row.macs > row.dense_macs:
        yield "macs", f"macs is {row.macs}, more than {row.dense_macs} in the dense network"
    events = [line["event"] for line in record.log if line.get("event")]
    if events:
        yield from _event_contradictions(record, events[-1])
    else:
        for name, dense in (("weight_sparsity", 0), ("node_sparsity", 0), ("pruned_epoch", None)):
            if getattr(row, name) != dense:
                yield name, f"{name} is {getattr(row, name)}, but no pruning is in the log"


def _event_contradictions(record: Record, event: dict[str, Any]) -> Iterator[tuple[str, str]]:
    row = record.result
    for name, key in EVENT_FIELDS.items():
        if key not in event or getattr(row, name) != event[key]:
            yield name, f"{name} is {getattr(row, name)!r}, but {event.get(key)!r} in the pruning of the log"
    shares = {"achieved": (event["achieved"], event["dense"], event["left"])}
    costs = event.get("costs", {})  # came later
    for unit, name in (("weights", "weight_sparsity"), ("nodes", "node_sparsity")):
        if unit in costs:
            shares[name] = (event[name], *costs[unit])
        if event["of"] == unit and abs(event["achieved"] - event[name]) > TOLERANCE:
            yield "log", f"achieved is {event['achieved']} of the {unit} in its pruning, but {name} {event[name]}"
    for name, (share, dense, left) in shares.items():
        if abs(1 - left / dense - share) > TOLERANCE:
            yield "log", f"{name} is {share} in its pruning, which left {left} of {dense}"
    before, after = costs.get("macs", (0, 0))
    if before != after and not row.structured:
        yield "log", f"the multiply-accumulates go from {before} to {after} in a pruning of single weights"
