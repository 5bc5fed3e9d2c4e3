"use strict";
// What is selected: one task, and of each facet the values that are chosen, or all where none is. Kept in the address.

const DATA = JSON.parse(document.getElementById("data").textContent);
const TASKS = [...new Set(DATA.lines.map((line) => line.task))].sort();
const KIND = { true: "whole nodes", false: "single weights" };
// A line without a value, such as dense among the sparsities, is in every choice.
const FACETS = [
  { name: "dataset", legend: "Data set", of: (line) => line.dataset },
  { name: "network", legend: "Network", of: (line) => line.network },
  { name: "preset", legend: "Preset", of: (line) => line.preset },
  { name: "device", legend: "Device", of: (line) => line.device },
  { name: "removed", legend: "Weights removed", of: removed },
  { name: "kind", legend: "What is cut", of: (line) => KIND[line.structured] ?? null },
];

const choice = { task: TASKS[0], chosen: {}, variants: false, find: "", sort: "", down: false };

function ofTask() {
  return DATA.lines.filter((line) => line.task === choice.task);
}

function options(facet) {
  const lines = ofTask().sort((a, b) => (a.asked ?? 0) - (b.asked ?? 0));
  const values = [...new Set(lines.map(facet.of))].filter((value) => value !== null);
  return facet.name === "removed" ? values : values.sort();
}

/** The lines of the selection, in the order of the leaderboards. */
function selected() {
  const words = choice.find.toLowerCase().split(/\s+/);
  return ofTask().filter(
    (line) =>
      (choice.variants || line.variant === "") &&
      words.every((word) => line.label.toLowerCase().includes(word)) &&
      FACETS.every((facet) => {
        const [chosen, value] = [choice.chosen[facet.name] ?? new Set(), facet.of(line)];
        return chosen.size === 0 || value === null || chosen.has(value);
      }),
  );
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  choice.task = TASKS.includes(asked.get("task")) ? asked.get("task") : TASKS[0];
  choice.chosen = {};
  for (const facet of FACETS) {
    const known = options(facet);
    choice.chosen[facet.name] = new Set(asked.getAll(facet.name).filter((value) => known.includes(value)));
  }
  choice.variants = asked.has("variants");
  choice.find = asked.get("find") ?? "";
  choice.sort = (asked.get("sort") ?? "").replace(/^-/, "");
  choice.down = (asked.get("sort") ?? "").startsWith("-");
}

function writeAddress() {
  const asked = new URLSearchParams({ task: choice.task });
  for (const [name, chosen] of Object.entries(choice.chosen)) chosen.forEach((value) => asked.append(name, value));
  if (choice.variants) asked.set("variants", "1");
  if (choice.find) asked.set("find", choice.find);
  if (choice.sort) asked.set("sort", (choice.down ? "-" : "") + choice.sort);
  history.replaceState(null, "", "#" + asked);
}

function isNarrowed() {
  return choice.variants || choice.find !== "" || Object.values(choice.chosen).some((chosen) => chosen.size > 0);
}

function chip(type, name, value, checked, change) {
  const input = element("input", { type, name, value, checked, change: () => change(input.checked) });
  return element("label", { class: "chip" }, input, element("span", {}, value));
}

/** Draw the controls anew; ``changed`` is called after every change of the selection, with whether the task did. */
function drawChoice(changed) {
  const tasks = TASKS.map((task) =>
    chip("radio", "task", task, task === choice.task, () => {
      Object.assign(choice, { task, chosen: {} });
      changed(true);
    }),
  );
  document.getElementById("tasks").replaceChildren(...tasks);
  drawFacets(changed);
}

function drawFacets(changed) {
  const facets = FACETS.map((facet) => {
    const chosen = (choice.chosen[facet.name] ??= new Set());
    const chips = options(facet).map((value) =>
      chip("checkbox", facet.name, value, chosen.has(value), (on) => {
        chosen[on ? "add" : "delete"](value);
        changed(false);
      }),
    );
    return chips.length ? element("fieldset", {}, element("legend", {}, facet.legend), element("div", {}, ...chips)) : null;
  });
  const variants = ofTask().filter((line) => line.variant !== "").length;
  const toggle = chip("checkbox", "variants", `show ${plural(variants, "line")}`, choice.variants, (on) => {
    choice.variants = on;
    changed(false);
  });
  if (variants) {
    facets.push(element("fieldset", {}, element("legend", {}, "Variants of methods"), element("div", {}, toggle)));
  }
  document.getElementById("facets").replaceChildren(...facets.filter((part) => part !== null));
  document.getElementById("find").value = choice.find;
}
