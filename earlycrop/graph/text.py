"""A summary as text, in columns that fit into 80 characters."""

from __future__ import annotations

from textwrap import wrap

from earlycrop.graph.summary import CutEstimate, FrozenRegion, LayerRow, Summary

GAP = "  "
MAX_KIND = 12
"""Longest name of a module's class, in characters."""
NOTE = (
    "removable: outputs that can be removed, out of all outputs; coupled outputs count once. cut alone saves: share of "
    "the network that is saved when only this layer is cut as far as possible, with all that is coupled to it (every "
    "layer keeps at least one output). MACs count in the module that runs them."
)


def format_summary(summary: Summary, width: int | None = None) -> str:
    """Format a summary for a person to read.

    Args:
        summary: The summary of a graph.
        width: Longest line, in characters; a long name may exceed it. None breaks no line.

    Returns:
        The text.
    """
    totals = (
        f"{summary.nodes:,} nodes can be removed. The network has {summary.weights:,} weights, "
        f"{summary.parameters:,} parameters and {summary.macs:,} MACs on the example."
    )
    lines = [*_wrap_line(totals, width), "", *_layer_lines(summary, width), "", *_wrap_line(NOTE, width)]
    if summary.frozen:
        lines += ["", "What cannot be removed, and why:"]
        lines += [line for region in summary.frozen for line in _region_lines(region, width)]
    return "\n".join([*lines, "", *_cut_lines(summary)])


def _layer_lines(summary: Summary, width: int | None) -> list[str]:
    """Return the table with a line for each module. A name that is too long has a line of its own."""
    rows: list[tuple[str, tuple[str, ...]]] = [("layer", ("kind", "removable", "params", "MACs", "params", "MACs"))]
    rows += [(row.layer or "(model itself)", _layer_cells(row, summary)) for row in summary.rows]
    if summary.other_parameters:
        rows.append(("norms and others", ("", "", format_count(summary.other_parameters), "", "", "")))
    with_kind = any(row.kind for row in summary.rows)
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in rows), strict=True)]
    widths[0] *= with_kind
    table_width = sum(len(GAP) + n for n in widths if n)
    name_width = max(len(name) for name, _ in rows)
    if width is not None:
        name_width = min(name_width, max(width - table_width, len("layer")))
    lines = [f"{'cut alone saves':>{name_width + table_width}}"]
    for name, cells in rows:
        if len(name) > name_width:
            lines.append(name)
            name = ""
        aligned = [f"{c:{'>' if i else '<'}{n}}" for i, (c, n) in enumerate(zip(cells, widths, strict=True)) if n]
        lines.append(GAP.join([f"{name:{name_width}}", *aligned]).rstrip())
    return lines


def _layer_cells(row: LayerRow, summary: Summary) -> tuple[str, ...]:
    return (
        row.kind if len(row.kind) <= MAX_KIND else row.kind[: MAX_KIND - 1] + ".",
        f"{row.removable:,}/{row.outputs:,}" if row.outputs else "",
        format_count(row.parameters),
        format_count(row.macs),
        _format_share(row.saves_parameters, summary.parameters),
        _format_share(row.saves_macs, summary.macs),
    )


def _region_lines(region: FrozenRegion, width: int | None) -> list[str]:
    more = len(region.modules) - 1
    reason = region.reason + (f", and in {more} more module{'s' * (more > 1)}" if more else "")
    count = len(region.layers)
    names = ", ".join(region.layers) if count < 3 else f"{region.layers[0]} and {count - 1} more"
    parts = [f"- {reason}", f"  {count} layer{'s' * (count > 1)}, {region.outputs:,} outputs: {names}"]
    if region.help:
        parts.append(f"  hint: {region.help}")
    return [line for part in parts for line in _wrap_line(part, width)]


def _cut_lines(summary: Summary) -> list[str]:
    dense = CutEstimate(0.0, summary.weights, summary.parameters, summary.macs)
    lines = [f"{'what remains':28}{'weights':>14}{'parameters':>16}{'MACs':>16}"]
    for cut in (dense, *summary.cuts):
        pairs = (cut.weights, dense.weights), (cut.parameters, dense.parameters), (cut.macs, dense.macs)
        weights, parameters, macs = (f"{format_count(n)} {_format_share(n, total):>6}" for n, total in pairs)
        lines.append(f"{_cut_name(cut, dense):28}{weights:>14}{parameters:>16}{macs:>16}")
    return lines


def _cut_name(cut: CutEstimate, dense: CutEstimate) -> str:
    if cut.target is None:
        return "all removable nodes cut"
    if not cut.target:
        return "dense network"
    reached = cut.weights <= (1 - cut.target) * dense.weights
    return f"{cut.target:.0%} of weights" + (" cut" if reached else ": out of reach")


def _wrap_line(line: str, width: int | None) -> list[str]:
    """Break a line between words. The continuation lines have its indentation."""
    if width is None:
        return [line]
    indent = "  " if line.startswith(("- ", "  ")) else ""
    return wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _format_share(part: int, total: int) -> str:
    if not part:
        return "-"
    share = part / total
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def format_count(n: int) -> str:
    """Format a number with three digits and a letter: 864, 9.41k, 25.6M, 4.09G.

    Args:
        n: The number.

    Returns:
        The text.
    """
    for power, letter in enumerate(("", "k", "M", "G", "T", "P")):
        scaled = n / 1000**power
        if scaled < 999.5 or letter == "P":
            break
    if not power:
        return str(n)
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{decimals}f}{letter}"
