"use strict";
// The plots, by Observable Plot: a row for each recipe on each device, the metric against sparsity and against step time.

/** A polygon with its first corner at an angle, as large as d3's symbols. */
function polygon(corners, turn) {
  const draw = (context, size) => {
    const radius = Math.sqrt(size / ((corners / 2) * Math.sin((2 * Math.PI) / corners)));
    for (let at = 0; at < corners; at += 1) {
      const angle = turn + (at * 2 * Math.PI) / corners;
      context[at ? "lineTo" : "moveTo"](radius * Math.cos(angle), radius * Math.sin(angle));
    }
    context.closePath();
  };
  return { draw };
}
const UP = -Math.PI / 2;
const times = {
  draw(context, size) {
    const turned = (name) => (x, y) => context[name]((x - y) * Math.SQRT1_2, (x + y) * Math.SQRT1_2);
    d3.symbolCross.draw({ moveTo: turned("moveTo"), lineTo: turned("lineTo"), closePath: () => context.closePath() }, size);
  },
};
// The markers of the project's figures.
const SYMBOLS = {
  s: polygon(4, Math.PI / 4), o: d3.symbolCircle, D: polygon(4, 0), d: d3.symbolDiamond, "^": polygon(3, UP),
  v: polygon(3, -UP), "<": polygon(3, Math.PI), ">": polygon(3, 0), p: polygon(5, UP), h: polygon(6, UP),
  H: polygon(6, 0), 8: polygon(8, Math.PI / 8), P: d3.symbolCross, X: times, "*": d3.symbolStar, 1: d3.symbolWye,
};

const look = (line) => DATA.looks[line.method];
const fill = (line) => (look(line).whole ? look(line).color : "var(--ground)");
const symbol = (line) => SYMBOLS[look(line).marker] ?? d3.symbolCircle;

function symbolPath(line, size, x, y) {
  return d3.create("svg:path").attr("d", d3.symbol(symbol(line), size)()).attr("transform", `translate(${x},${y})`)
    .attr("style", `fill:${fill(line)};stroke:${look(line).color};stroke-width:1.4`).node();
}

/** The method's mark in the table. */
function swatch(line) {
  const picture = d3.create("svg").attr("width", 14).attr("height", 14).attr("viewBox", "-7 -7 14 14");
  picture.attr("aria-hidden", "true").append(() => symbolPath(line, 45, 0, 0));
  return picture.node();
}

/** The selection in panels: lines whose values and times can be compared. Dense is in all panels of its recipe. */
function panels(lines) {
  const parts = d3.group(lines.filter((line) => !missing(line.asked)), (line) => `${recipe(line)}, ${line.of}`);
  return [...parts.values()].map((pruned) => {
    const dense = lines.filter((line) => missing(line.asked) && recipe(line) === recipe(pruned[0]));
    return { dense, pruned, all: [...dense, ...pruned] };
  });
}

const LETTER = 6.7; // pixels, of the plots' text, on average
const LONG = 30; // letters, of a name beside which there is no room for a second plot

function clipped(name, room) {
  const letters = Math.floor((room - 24) / LETTER);
  return name.length <= letters ? name : name.slice(0, letters - 1).trimEnd() + "…";
}

/** Names at the right, each with its mark, tied to the last point of its line and clear of each other. */
function names(ends) {
  return (index, { x, y }, channels, size) => {
    const group = d3.create("svg:g");
    const [step, right] = [15, size.width - size.marginRight];
    const places = ends.map((end) => ({ ...end, at: y(end.y), to: y(end.y) })).sort((a, b) => a.at - b.at);
    let last = size.marginTop - step;
    for (const place of places) last = place.to = Math.max(place.to, last + step);
    last = size.height - size.marginBottom + step;
    for (const place of [...places].reverse()) last = place.to = Math.min(place.to, last - step);
    for (const { line, x: from, at, to } of places) {
      const name = group.append("g").attr("class", "name").attr("aria-label", line.label);
      const bend = Math.min(Math.max(x(from) + 6, right - 34), right - 10);
      name.append("path").attr("d", `M${Math.min(x(from) + 6, bend)},${at}H${bend}L${right},${to}H${right + 8}`).attr("fill", "none")
        .attr("stroke", look(line).color).attr("stroke-opacity", 0.4);
      name.append(() => symbolPath(line, 32, right + 15, to));
      name.append("text").attr("x", right + 24).attr("y", to).attr("dy", "0.32em").attr("fill", "currentColor")
        .attr("text-anchor", "start").text(clipped(line.label, size.marginRight));
    }
    return group.node();
  };
}

const longest = (panel) => d3.max(panel.all, (line) => line.label.length);

/** What both plots have: an axis for the metric, marks for the points, what a pointer tells, and the names. */
function plot(panel, width, points, x, label, more) {
  const [first, all] = [panel.all[0], panel.all];
  const [low, high] = [d3.min(all, (line) => line.low), d3.max(all, (line) => line.high)];
  const pad = 0.06 * (high - low || Math.abs(high) || 1);
  const series = d3.groups(points, (point) => point.line.label);
  const ends = series.map(([, mine]) => d3.least(mine, (point) => -(point.line.asked ?? 0)));
  const methods = [...d3.rollup(all, ([line]) => line, (line) => line.method).values()];
  const across = panel.dense.filter((line) => !series.some(([name]) => name === line.label));
  ends.unshift(...across.map((line) => ({ line, x: x.domain.at(-1), y: line.mean })));
  const shared = { x: "x", stroke: (point) => look(point.line).color, ariaLabel: (point) => point.line.label };
  const path = { ...shared, y: "y", z: shared.ariaLabel, strokeWidth: 1.6 };
  const whole = points.filter((point) => look(point.line).whole);
  const single = points.filter((point) => !look(point.line).whole);
  return Plot.plot({
    width, height: Math.max(300, 15 * ends.length + 75), marginTop: 28, marginBottom: 42, marginLeft: 52,
    marginRight: Math.min(28 + LETTER * longest(panel), 0.46 * width), className: "plot", ariaLabel: label,
    style: { fontSize: "12px", fontFamily: "inherit", overflow: "visible" }, x,
    y: { domain: [low - pad, high + pad], label: metric(first), labelAnchor: "top", ticks: 6, tickSize: 0 },
    color: { type: "identity" },
    symbol: { domain: methods.map((line) => line.method), range: methods.map(symbol) },
    marks: [
      Plot.gridY({ stroke: "var(--grid)", strokeOpacity: 1, ticks: 6 }),
      ...more(shared, series),
      Plot.line(whole, path),
      Plot.line(single, { ...path, strokeDasharray: "5 3" }),
      Plot.ruleX(points, { ...shared, y1: (point) => point.line.low, y2: (point) => point.line.high, strokeOpacity: 0.6 }),
      Plot.dot(points, { ...shared, y: "y", fill: (point) => fill(point.line), symbol: (point) => point.line.method, r: 4.5, strokeWidth: 1.4 }),
      names(ends),
      Plot.tip(points, Plot.pointer({ x: "x", y: "y", title: (point) => tip(point.line), fontSize: 12, stroke: "var(--edge)" })),
    ],
  });
}

function tip(line) {
  return [
    `${line.label}${missing(line.asked) ? "" : ", " + removed(line) + " removed"}`,
    `${line.metric} ${spread(line, line.digits)} (${plural(line.seeds, "seed")})`,
    missing(line.batch_ms) ? "" : `${short(line.batch_ms)} ms a training step`,
    `${percent(line.weight_sparsity)} of weights cut, ${percent(line.node_sparsity)} of nodes`,
  ].filter(Boolean).join("\n");
}

/** The metric against what is left, on a logarithmic scale; methods side by side where they share a sparsity. */
function bySparsity(panel, width) {
  const left = (line) => Math.max(1 - line.asked, 1e-4);
  const ticks = [...new Set(panel.pruned.map(left))].sort((a, b) => b - a);
  const labels = [...new Set(panel.pruned.map((line) => line.label))];
  const near = d3.min(d3.pairs(ticks), ([a, b]) => Math.log(a / b)) ?? 1;
  const range = Math.log(ticks[0] / ticks.at(-1)) + 1.2 * near;
  const step = Math.min((0.62 * near) / labels.length, 0.028 * range);
  const shift = (line) => Math.exp(-step * (labels.indexOf(line.label) - (labels.length - 1) / 2));
  const points = panel.pruned.map((line) => ({ line, x: left(line) * shift(line), y: line.mean }));
  const edge = Math.exp(0.6 * near);
  const percentRemoved = (share) => `${Number((100 * (1 - share)).toPrecision(4))} %`;
  const x = {
    type: "log", domain: [ticks[0] * edge, ticks.at(-1) / edge], ticks, tickFormat: percentRemoved, tickSize: 3,
    label: `${panel.pruned[0].of} removed`, labelAnchor: "center", labelArrow: "none",
  };
  const label = `${panel.all[0].metric} against the share of ${panel.pruned[0].of} removed; the table has the numbers`;
  return plot(panel, width, points, x, label, (shared, series) => [
    Plot.ruleY(panel.dense, { y: "mean", stroke: "currentColor", strokeDasharray: "1.5 3", ariaLabel: "label" }),
    Plot.areaY(points.filter((point) => series.find(([name]) => name === point.line.label)[1].length > 1), {
      x: "x", y1: (point) => point.line.low, y2: (point) => point.line.high, z: shared.ariaLabel,
      ariaLabel: shared.ariaLabel, fill: shared.stroke, fillOpacity: 0.1,
    }),
  ]);
}

/** The metric against a training step's time. */
function byTime(panel, width) {
  const lines = panel.all.filter((line) => !missing(line.batch_ms));
  const points = lines.map((line) => ({ line, x: line.batch_ms, y: line.mean }));
  const x = {
    domain: [0, 1.06 * d3.max(lines, (line) => line.batch_ms)], label: `milliseconds a training step, ${lines[0].device}`,
    labelAnchor: "center", labelArrow: "none", ticks: Math.min(8, Math.max(3, Math.round(width / 110))), tickSize: 3,
  };
  return plot(panel, width, points, x, `${lines[0].metric} against the time of a training step; the table has the numbers`, () => []);
}

function drawPlots(lines) {
  const place = document.getElementById("plots");
  const figures = panels(lines).map((panel) => {
    const careful = [...new Set(panel.pruned.flatMap((line) => line.careful))];
    const of = panel.pruned[0].of;
    const figure = element("figure", {}, element("figcaption", {},
      recipe(panel.all[0]) + (of === "weights" ? "" : `, share of ${of}`),
      element("small", {}, "Points: mean over seeds. Bars and bands: lowest to highest seed. Hollow, dashed: single weights are held at zero."),
      careful.length ? element("small", { class: "careful" }, `Careful, settings differ between some of these runs: ${careful.join("; ")}`) : null,
    ));
    figure.panel = panel;
    figure.append(element("div", { class: longest(panel) > LONG ? "pair under" : "pair" }, element("div"), element("div")));
    return figure;
  });
  const told = lines.length ? "Only dense runs are in the selection: there is nothing to plot." : "";
  place.replaceChildren(...(figures.length ? figures : [told]));
  fitPlots();
}

/** Draw each plot in the width that it has. */
function fitPlots() {
  for (const figure of document.querySelectorAll("#plots figure")) {
    const [left, right] = figure.querySelectorAll(".pair > div");
    left.replaceChildren(bySparsity(figure.panel, left.clientWidth));
    right.replaceChildren(byTime(figure.panel, right.clientWidth));
  }
}

/** Fade everything but this line's method in the panels that it is in; null ends that. */
function highlight(line) {
  for (const figure of document.querySelectorAll("#plots figure")) {
    const among = line !== null && figure.panel.all.includes(line);
    for (const mark of figure.querySelectorAll("path[aria-label], line[aria-label], .name, text[aria-label]")) {
      mark.classList.toggle("faded", among && mark.getAttribute("aria-label") !== line.label);
    }
  }
}
