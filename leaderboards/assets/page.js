"use strict";
// What happens when: every change of the selection redraws what depends on it, and is kept in the address.

function draw() {
  const lines = selected();
  drawTable(lines, changed);
  drawPlots(lines);
  const runs = new Set(lines.flatMap((line) => line.runs.map((run) => run.run))).size;
  const all = ofTask().length;
  document.getElementById("told").textContent = `${lines.length} of ${plural(all, "line")}, ${plural(runs, "run")}`;
  document.getElementById("clear").hidden = !isNarrowed();
}

function changed(task) {
  if (task) drawFacets(changed);
  writeAddress();
  draw();
}

function fromAddress() {
  readAddress();
  drawChoice(changed);
  draw();
}

document.getElementById("choice").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("clear").addEventListener("click", () => {
  Object.assign(choice, { chosen: {}, variants: false, find: "" });
  changed(true);
  document.querySelector("#tasks input:checked").focus();
});
document.getElementById("find").addEventListener("input", (event) => {
  choice.find = event.target.value.trim();
  changed(false);
});
document.getElementById("all").addEventListener("click", () => {
  const closed = document.querySelectorAll('.opener[aria-expanded="false"]');
  for (const button of closed.length ? closed : document.querySelectorAll(".opener")) button.click();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is the selection's
  document.getElementById("table").focus();
});
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) requestAnimationFrame(fitPlots);
  width = window.innerWidth;
});
window.addEventListener("hashchange", fromAddress);
fromAddress();
