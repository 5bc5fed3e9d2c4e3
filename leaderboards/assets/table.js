"use strict";
// The table: a line a method, which opens to its runs; the heads of its columns sort.

const COLUMNS = [
  { key: "label", head: () => "method", left: true },
  { key: "asked", head: () => "weights removed", cell: (line) => removed(line) ?? "-" },
  { key: "mean", head: (line) => line.metric, cell: (line) => spread(line, line.digits), best: true },
  { key: "gap", head: () => "gap to dense", cell: (line) => told(line.gap, (gap) => signed(gap, line.digits)), best: true },
  { key: "rank", head: () => "place", cell: (line) => told(line.rank, (rank) => `${rank} of ${line.places}`) },
  { key: "seeds", head: () => "seeds", cell: (line) => String(line.seeds) },
  { key: "weight_sparsity", head: () => "weights cut", cell: (line) => percent(line.weight_sparsity) },
  { key: "node_sparsity", head: () => "nodes cut", cell: (line) => percent(line.node_sparsity) },
  { key: "parameters", head: () => "parameters", cell: (line) => short(line.parameters) },
  { key: "macs", head: () => "MACs", cell: (line) => short(line.macs) },
  { key: "batch_ms", head: () => "step, ms", cell: (line) => told(line.batch_ms, short) },
  { key: "train_seconds", head: () => "training, s", cell: (line) => told(line.train_seconds, short) },
  { key: "step_bytes", head: () => "step, MB", cell: (line) => told(line.step_bytes, (bytes) => short(bytes / 1e6)), ifAny: true },
  { key: "emissions_g", head: () => "CO₂, g", cell: (line) => told(line.emissions_g, short), ifAny: true },
  { key: "pruned_epoch", head: () => "cut at epoch", cell: (line) => told(line.pruned_epoch, (at) => cutAt(at, line)) },
];
// Of the recipe, what the lines share stands in the caption; what tells them apart has columns, as few as that takes.
const CONTEXT = ["dataset", "preset", "network", "epochs", "device"];

/** The mean epoch of the pruning, and how many runs were cut at the latest one, for want of a reason before. */
function cutAt(epoch, line) {
  const count = line.runs.length;
  const share = line.at_cap < count ? `${line.at_cap} of ${count} ` : "";
  return `${Number(epoch.toFixed(1))}${line.at_cap ? `, ${share}at the cap` : ""}`;
}

const opened = new Set();
let shownColumns = "";

function columns(lines) {
  const kinds = (names) => new Set(lines.map((line) => recipe(line, names))).size;
  const differ = CONTEXT.reduce((names, name) => (kinds([...names, name]) > kinds(names) ? [...names, name] : names), []);
  const words = { dataset: "data set" };
  const more = differ.map((key) => ({ key, head: () => words[key] ?? key, cell: (line) => String(line[key]), left: true }));
  const known = COLUMNS.slice(2).filter(({ key, ifAny }) => !ifAny || lines.some((line) => !missing(line[key])));
  return [...COLUMNS.slice(0, 2), ...more, ...known];
}

/** The lines in the order of the chosen column: what is missing last, and else as they were. */
function sorted(lines) {
  const key = choice.sort;
  if (!key) return lines;
  const sign = choice.down ? -1 : 1;
  return [...lines].sort((a, b) => {
    if (missing(a[key]) || missing(b[key])) return missing(a[key]) - missing(b[key]);
    return sign * (typeof a[key] === "string" ? a[key].localeCompare(b[key]) : a[key] - b[key]);
  });
}

function drawTable(lines, changed) {
  for (const line of lines) line.digits = digits(lines.filter((other) => recipe(other) === recipe(line)));
  const shown = columns(lines);
  const head = document.querySelector("#lines > thead");
  const signature = shown.map((column) => column.key).join() + choice.task;
  if (signature !== shownColumns) {
    shownColumns = signature;
    head.replaceChildren(element("tr", {}, ...shown.map((column) => headCell(column, ofTask()[0], changed))));
  }
  for (const cell of head.querySelectorAll("th")) {
    const here = cell.dataset.key === choice.sort;
    here ? cell.setAttribute("aria-sort", choice.down ? "descending" : "ascending") : cell.removeAttribute("aria-sort");
    cell.querySelector("span").textContent = here ? (choice.down ? " ▾" : " ▴") : "";
  }
  const rows = sorted(lines).flatMap((line) => row(line, shown));
  document.querySelector("#lines > tbody").replaceChildren(...rows);
  document.getElementById("lines").classList.toggle("wide", lines.some((line) => line.label.length > LONG));
  nameAll();
  document.getElementById("caption").textContent = caption(lines);
}

function headCell(column, first, changed) {
  const sort = () => {
    const best = column.best && first.higher; // the first click on a metric puts the best on top
    Object.assign(choice, { down: choice.sort === column.key ? !choice.down : Boolean(best), sort: column.key });
    changed(false);
  };
  const mark = element("span", { "aria-hidden": "true" });
  const button = element("button", { type: "button", click: sort }, column.head(first), mark);
  return element("th", { scope: "col", class: column.left ? "left" : null, "data-key": column.key }, button);
}

function caption(lines) {
  if (!lines.length) return "No lines are in the selection.";
  const shared = CONTEXT.filter((name) => new Set(lines.map((line) => line[name])).size === 1);
  const about = shared.length ? recipe(lines[0], shared) + ". " : "";
  return (
    `${about}${metric(lines[0]).replace(/^./, (letter) => letter.toUpperCase())}: mean ± sample deviation over seeds of the last epoch's network. ` +
    "Gap: to dense of the same recipe on the same device. Place: among the methods of its recipe and sparsity. " +
    "Step: one training step of the final network."
  );
}

function row(line, shown) {
  const id = `runs-${DATA.lines.indexOf(line)}`;
  const cells = shown.slice(1).map((column) => {
    const first = column.key === "mean" && line.rank === 1 ? "first" : "";
    return element("td", { class: `${column.left ? "left" : ""} ${first}`.trim() || null }, column.cell(line));
  });
  const detail = element("tr", { class: "detail", id, hidden: !opened.has(line) });
  const open = element("button", {
    type: "button", class: "opener", "aria-expanded": String(opened.has(line)), "aria-controls": id,
    click: () => setOpen(line, open, detail, shown.length, !opened.has(line)),
  }, element("span", { class: "arrow", "aria-hidden": "true" }, "▸"), swatch(line), element("span", {}, line.label));
  const main = element("tr", {
    class: "line", mouseenter: () => highlight(line), mouseleave: () => highlight(null),
    focusin: () => highlight(line), focusout: () => highlight(null),
  }, element("th", { scope: "row", class: "left" }, open), ...cells);
  if (opened.has(line)) setOpen(line, open, detail, shown.length, true);
  return [main, detail];
}

/** The button above the table opens all lines, or closes them where all are open. */
function nameAll() {
  const closed = document.querySelector('.opener[aria-expanded="false"]');
  document.getElementById("all").textContent = closed ? "Open all lines" : "Close all lines";
}

function setOpen(line, button, detail, span, open) {
  opened[open ? "add" : "delete"](line);
  button.setAttribute("aria-expanded", String(open));
  detail.hidden = !open;
  if (open && !detail.firstChild) detail.append(element("td", { colspan: String(span) }, runs(line)));
  nameAll();
}

function runs(line) {
  const places = line.digits;
  const columns = [
    ["seed", (run) => String(run.seed)],
    [line.metric, (run) => run.value.toFixed(places)],
    ["record", (run) => element("a", { href: run.href }, run.run)],
    ["weights cut", (run) => percent(run.weight_sparsity)],
    ["nodes cut", (run) => percent(run.node_sparsity)],
    ["parameters", (run) => short(run.parameters)],
    ["MACs", (run) => short(run.macs)],
    ["step, ms", (run) => short(run.batch_ms)],
    ["training, s", (run) => short(run.train_seconds)],
    ["cut at epoch", (run) => told(run.pruned_epoch, String)],
    ["why then", (run) => run.pruned_why ?? "-"],
  ];
  const left = (name) => (["record", "why then"].includes(name) ? "left" : null);
  const heads = columns.map(([name]) => element("th", { scope: "col", class: left(name) }, name));
  const rows = line.runs.map((run) =>
    element("tr", {}, ...columns.map(([name, cell]) => element("td", { class: left(name) }, cell(run)))),
  );
  return element(
    "table", { class: "runs", "aria-label": `Runs of ${line.label}` },
    element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows),
  );
}
