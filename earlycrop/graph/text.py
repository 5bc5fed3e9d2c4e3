"""A summary as text, in columns that 80 characters hold."""

from __future__ import annotations

from textwrap import wrap

from earlycrop.graph.summary import CutEstimate, FrozenRegion, LayerRow, Summary

GAP = "  "
KIND = 12
"""The widest that a module's class is shown."""
NOTE = (
    "can go: outputs that can be removed, of all; those that only go together count once. alone saves: what the whole "
    "network loses when this layer's outputs are cut as far as can be (something is left of every layer), with all "
    "that is coupled to them. MACs count in the module that runs them."
)


def format_summary(summary: Summary, width: int | None = None) -> str:
    """``summary`` for a person to read, in lines of ``width`` at most, where names allow it; or as long as they are."""
    lines = [
        *_wrap_line(
            f"{summary.nodes:,} nodes can be removed; {summary.weights:,} weights, {summary.parameters:,} parameters, "
            f"{summary.macs:,} MACs on the example.",
            width,
        ),
        "",
        *_table(summary, width),
        "",
        *_wrap_line(NOTE, width),
    ]
    if summary.frozen:
        lines += ["", "What stays, and why:"]
        lines += [line for region in summary.frozen for line in _region(region, width)]
    return "\n".join([*lines, "", *_cut_lines(summary)])


def _table(summary: Summary, width: int | None) -> list[str]:
    """A line a module; a name that does not fit has a line to itself."""
    rows = [(r.layer or "(its own forward)", _figures(r, summary)) for r in summary.rows]
    if summary.rest_parameters:
        rows.append(("norms and the like", ("", "", format_count(summary.rest_parameters), "", "", "")))
    rows.insert(0, ("layer", ("kind", "can go", "params", "MACs", "params", "MACs")))
    known = any(row.kind for row in summary.rows)
    sizes = [max(len(figures[i]) for _, figures in rows) * (known or i > 0) for i in range(len(rows[0][1]))]
    figures_wide = sum(len(GAP) + n for n in sizes if n)
    room = max(len(name) for name, _ in rows)
    if width is not None:
        room = min(room, max(width - figures_wide, len("layer")))
    alone = sum(sizes[-2:]) + len(GAP)
    lines = [f"{'alone saves':>{alone}}".rjust(room + figures_wide)]
    for name, figures in rows:
        if len(name) > room:
            lines.append(name)
            name = ""
        aligned = [f"{f:{'>' if i else '<'}{n}}" for i, (f, n) in enumerate(zip(figures, sizes, strict=True)) if n]
        lines.append(GAP.join([f"{name:{room}}", *aligned]).rstrip())
    return lines


def _figures(row: LayerRow, summary: Summary) -> tuple[str, ...]:
    return (
        row.kind if len(row.kind) <= KIND else row.kind[: KIND - 1] + ".",
        f"{row.removable:,}/{row.outputs:,}" if row.outputs else "",
        format_count(row.parameters), format_count(row.macs),
        _share(row.saves_parameters, summary.parameters), _share(row.saves_macs, summary.macs),
    )  # fmt: skip


def _region(region: FrozenRegion, width: int | None) -> list[str]:
    more = len(region.modules) - 1
    reason = region.reason + (f", and in {more} more module{'s' * (more > 1)}" if more else "")
    count = len(region.layers)
    where = ", ".join(region.layers) if count < 3 else f"{region.layers[0]} and {count - 1} more"
    told = [
        f"- {reason}",
        f"  {count} layer{'s' * (count > 1)}, {region.outputs:,} outputs: {where}",
        *([f"  would help: {region.help}"] if region.help else []),
    ]
    return [line for part in told for line in _wrap_line(part, width)]


def _cut_lines(summary: Summary) -> list[str]:
    dense = CutEstimate(0.0, summary.weights, summary.parameters, summary.macs)
    lines = [f"{'left, of':28}{'weights':>14}{'parameters':>16}{'MACs':>16}"]
    for cut in (dense, *summary.cuts):
        figures = [
            f"{format_count(left)} {_share(left, whole):>6}"
            for left, whole in (
                (cut.weights, dense.weights),
                (cut.parameters, dense.parameters),
                (cut.macs, dense.macs),
            )
        ]
        lines.append(f"{_cut_name(cut, dense):28}{figures[0]:>14}{figures[1]:>16}{figures[2]:>16}")
    return lines


def _cut_name(cut: CutEstimate, dense: CutEstimate) -> str:
    if cut.asked is None:
        return "all that can go, gone"
    if not cut.asked:
        return "now"
    reached = cut.weights <= (1 - cut.asked) * dense.weights
    return f"{cut.asked:.0%} of weights" + (" cut" if reached else ": out of reach")


def _wrap_line(line: str, width: int | None) -> list[str]:
    """``line``, broken at words where it is too long; what goes on is indented as the line is."""
    indent = "  " if line.startswith(("- ", "  ")) else ""
    if width is None:
        return [line]
    return wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _share(part: int, whole: int) -> str:
    if not part:
        return "-"
    share = part / whole
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def format_count(n: int) -> str:
    """Three figures and a letter: 864, 9.41k, 25.6M, 4.09G."""
    for power, letter in enumerate(("", "k", "M", "G", "T", "P")):
        scaled = n / 1000**power
        if scaled < 999.5 or letter == "P":
            break
    if not power:
        return str(n)
    return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{letter}"
