"use strict";
// Elements and numbers. Text comes from records, so it is only ever set as text.

/** An element with attributes (a function is a listener, false and null leave it out) and children. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Three digits and a unit: 34.1k, 1.2M. */
function short(number) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(number) >= 0.9995 * size) return Number((number / size).toPrecision(3)) + unit;
  }
  return String(Number(number.toPrecision(3)));
}

const missing = (value) => value === null || value === undefined;
const told = (value, form) => (missing(value) ? "-" : form(value));
const percent = (share) => (100 * share).toFixed(2) + " %";
const signed = (value, digits) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Digits after the point, for means as large as these. */
function digits(lines) {
  const top = Math.max(...lines.map((line) => Math.abs(line.mean)));
  return top >= 100 ? 1 : top >= 10 ? 2 : 4;
}

/** Mean and sample deviation. */
function spread(line, places) {
  return line.mean.toFixed(places) + (missing(line.std) ? "" : " ± " + line.std.toFixed(places));
}

/** What was asked to be removed: 90 %, or 90 % of macs. */
function removed(line) {
  if (missing(line.asked)) return null;
  return `${Number((100 * line.asked).toPrecision(6))} %${line.of === "weights" ? "" : " of " + line.of}`;
}

/** The recipe in words, without what the task's other recipes share when these names are given. */
function recipe(line, names = ["dataset", "preset", "network", "epochs", "device"]) {
  const words = { preset: `preset ${line.preset}`, epochs: plural(line.epochs, "epoch") };
  return names.map((name) => words[name] ?? line[name]).join(", ");
}

const metric = (line) => `${line.metric}, ${line.split} (${line.higher ? "higher" : "lower"} is better)`;
