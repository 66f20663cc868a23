// The order of the responses as it is so far, into which they can be dragged, and the verdicts on a pair.

import * as answers from "/answer.js";
import { element, letter } from "/view.js";

const area = () => document.getElementById("order");

/** Starts to drag a response. */
export function drag(event, index) {
  event.dataTransfer.setData("text/plain", String(index));
  event.dataTransfer.effectAllowed = "move";
  area().classList.add("dragging");
  event.target.addEventListener("dragend", () => area().classList.remove("dragging"), { once: true });
}

/** The order as tiers: a response is dropped on a tier to tie, or between two of them. */
export function order(answer, { changed, focusOn }) {
  const target = (made, tier, isNew) => {
    made.addEventListener("dragover", (event) => { event.preventDefault(); made.classList.add("over"); });
    made.addEventListener("dragleave", () => made.classList.remove("over"));
    made.addEventListener("drop", (event) => {
      event.preventDefault();
      const index = Number.parseInt(event.dataTransfer.getData("text/plain"), 10);
      if (!(index >= 0 && index < answer.values.length)) return;
      answers.move(answer, index, tier, isNew);
      area().classList.remove("dragging");
      changed(index);
    });
    return made;
  };
  const gap = (tier) => target(element("span", { class: "gap" }), tier, true);
  const chip = (index) => element("span", { class: "chip", draggable: "true", text: letter(index),
    on: { dragstart: (event) => drag(event, index), click: () => focusOn(index) } });
  const all = answers.tiers(answer);
  const shown = [gap(0)];
  all.forEach((tied, tier) => {
    const parts = tied.flatMap((index, at) => (at === 0 ? [chip(index)] : ["=", chip(index)]));
    shown.push(target(element("span", { class: "tier" }, ...parts), tier, false), gap(tier + 1));
  });
  const open = answers.missing(answer);
  const rest = open.length > 0 ? [element("span", { class: "open" }, ...open.map(chip))] : [];
  const label = all.length > 0 ? "Your order" : "Press a number, or drag here";
  return [element("span", { class: "label", text: label }), ...shown, ...rest];
}

/** The verdicts on a pair that favour neither. */
export function verdicts({ answer, focus }, { changed }) {
  const isTie = answer.values[0] !== null && answer.values[0] === answer.values[1];
  const button = (label, key, isOn, bothBad) => element("button", { "aria-pressed": String(isOn),
    on: { click: () => { answers.choose(answer, null, null, bothBad); changed(focus); } } },
    label + " ", element("kbd", { text: key }));
  return [button("Tie", "=", isTie && !answer.bothBad, false), button("Both are bad", "b", isTie && answer.bothBad, true)];
}
