// A response with its place, score or verdict, and its marks.

import * as answers from "/answer.js";
import { drag } from "/order.js";
import { element, letter, text } from "/view.js";

const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"];

/** The response as an element. */
export function card(response, index, { session, sheet }, { set, choose, flag, focused }) {
  const isRank = session.ask === "rank";
  const button = (label, kind, title, run) => element("button",
    { tabindex: -1, class: kind, title, "data-value": label, on: { click: run } }, String(label));
  const most = isRank ? sheet.responses.length : session.scale;
  const numbers = Array.from({ length: most }, (_, place) => place + 1);
  const buttons = session.ask === "pair"
    ? [button("better", "value word", "better", () => choose(index, "better")),
      button("much better", "value word", "much better", () => choose(index, "much"))]
    : numbers.map((value) => button(value, "value", `${isRank ? "place" : "score"} ${value}`, () => set(index, value)));
  const handle = element("span", { class: "letter", draggable: isRank ? "true" : false, text: letter(index),
    title: isRank ? "drag into your order" : false, on: { dragstart: (event) => drag(event, index) } });
  const flags = session.flags.map((name, number) => element("button",
    { tabindex: -1, class: "flag", "data-flag": name, on: { click: () => flag(index, name) } },
    element("kbd", { text: String(number + 1) }), name));
  return element("article", { class: "response", tabindex: 0, "data-index": index, "aria-label": `Response ${letter(index)}`,
    on: { focus: () => focused(index), pointerdown: () => focused(index) } },
    element("header", {}, handle, element("span", { class: "given" }), element("span", { class: "values" }, ...buttons)),
    element("div", { class: "pane" }, text(response)),
    element("footer", { class: "flags" }, ...flags));
}

/** What was said of a response, in a word. */
function given(index, { answer, session }) {
  const value = answer.values[index];
  if (value === null) return "";
  if (session.ask === "score") return String(value);
  const places = answers.dense(answer.values);
  const isTied = places.filter((place) => place === places[index]).length > 1;
  if (session.ask === "rank") return ORDINALS[places[index] - 1] + (isTied ? " =" : "");
  if (isTied) return answer.bothBad ? "bad" : "tie";
  return value === 1 ? (answer.strength === "much" ? "much better" : "better") : "";
}

/** Shows the answer that is being given. */
export function updateCard(own, index, state) {
  const { answer, session } = state;
  const said = given(index, state);
  own.classList.toggle("here", index === state.focus);
  own.classList.toggle("flagging", state.flagging && index === state.focus);
  own.classList.toggle("done", answer.values[index] !== null);
  own.querySelector(".given").textContent = said;
  const pressed = session.ask === "pair" ? said : String(answer.values[index]);
  own.querySelectorAll(".value").forEach((button) =>
    button.setAttribute("aria-pressed", String(button.dataset.value === pressed)));
  own.querySelectorAll(".flag").forEach((button) =>
    button.setAttribute("aria-pressed", String(answer.flags[index].includes(button.dataset.flag))));
}
