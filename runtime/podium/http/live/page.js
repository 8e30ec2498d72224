"use strict";
// Fills in the figures once a second while somebody looks; draws nothing itself. A page of another structure is loaded
// anew. Texts only ever become text nodes.
const EVERY_MS = 1000, WITHIN_MS = 10000;
const link = document.getElementById("link");
const places = [...document.querySelectorAll("[data-figure]")];
const boxes = [...document.querySelectorAll("[data-box]")];
const address = location.pathname.replace(/\/+$/, "") + "/figures";

function fill(figures) {
  const busy = new Set(figures.busy), failing = new Set(figures.failing);
  for (const place of places) place.textContent = figures.texts[place.dataset.figure] ?? "";
  for (const box of boxes) {
    box.classList.toggle("busy", busy.has(box.dataset.box));
    box.classList.toggle("failing", failing.has(box.dataset.box));
  }
}

function say(words, isLive) {
  link.textContent = words;
  link.classList.toggle("live", isLive);
  document.body.classList.toggle("stale", !isLive);
}

async function look() {
  try {
    const answer = await fetch(address, { cache: "no-store", signal: AbortSignal.timeout(WITHIN_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const figures = await answer.json();
    if (figures.structure !== document.body.dataset.structure) return location.reload();
    fill(figures);
    say("live", true);
  } catch (error) {
    say(`no answer (${error.message})`, false);
  }
  setTimeout(turn, EVERY_MS);
}

// Nobody looks at a hidden page: it asks for nothing.
function turn() {
  if (document.hidden) document.addEventListener("visibilitychange", turn, { once: true });
  else look();
}

function fit() {
  for (const picture of document.querySelectorAll("details")) {
    const frame = picture.querySelector(".scroll"), spare = picture.querySelector("svg").width.baseVal.value - frame.clientWidth;
    picture.classList.toggle("wide", spare > 0);
    if (spare > 0 && !frame.scrollLeft) frame.scrollLeft = spare / 2;
  }
}

for (const picture of document.querySelectorAll("details")) picture.addEventListener("toggle", fit);
addEventListener("resize", fit);
fit();
turn();
