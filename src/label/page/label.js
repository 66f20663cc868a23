// The annotator's page: asks the service for items, shows them, and sends answers.

import * as answers from "/answer.js";
import { KEYS, QUESTION } from "/keys.js";
import { drag, order, verdicts } from "/order.js";
import { element, letter, prompt, scrollTogether, text, tree } from "/view.js";

const byId = (id) => document.getElementById(id);
const PATIENCE = 30_000; // before asking again for an item
const IDLE = 120_000; // after which time is not counted

const state = {
  name: "", token: "", session: null,
  sheet: null, answer: null,
  number: null, // of the finished item that is being edited
  mine: 0, focus: 0, isBusy: false, flagging: false,
  draft: "", lastActive: 0, lastTick: 0, timer: 0,
};

async function api(path, body = {}) {
  const headers = { "Content-Type": "application/json" };
  if (state.token) headers.Authorization = "Bearer " + state.token;
  const request = { method: "POST", headers, body: JSON.stringify({ annotator: state.name, ...body }) };
  let response;
  try {
    response = await fetch("/api/" + path, request);
  } catch {
    throw { status: 0, message: "The service does not answer. Your answer is kept here; try again." };
  }
  const read = await response.json().catch(() => ({}));
  if (!response.ok) throw { status: response.status, message: read.error ?? "The service failed." };
  return read;
}

// Begin.

function show(id) {
  for (const other of ["work", "begin", "end"]) byId(other).hidden = other !== id;
  byId("actions").hidden = id !== "work";
}

async function begin() {
  try {
    state.session = await api("session");
  } catch (error) {
    show("begin");
    byId("token-label").hidden = error.status !== 401;
    byId("begin-error").textContent = error.status === 401 && !state.token ? "A token is needed." : error.message;
    byId(error.status === 401 ? "token" : "name").focus();
    return;
  }
  state.name = state.session.annotator;
  localStorage.setItem("name", state.name);
  const address = new URLSearchParams({ name: state.name });
  if (state.token) address.set("token", state.token);
  history.replaceState(null, "", "#" + address);
  byId("who").textContent = state.name;
  byId("guideline").replaceChildren(...tree(state.session.guideline));
  showGuideline(localStorage.getItem("guideline") !== "closed" && window.innerWidth >= 1100);
  const rows = [...KEYS[state.session.ask], ...KEYS.all].map(([keys, what]) => [
    element("dt", {}, ...keys.split(" ").map((key) => (key === "–" ? "–" : element("kbd", { text: key })))),
    element("dd", { text: what })]);
  byId("keys").replaceChildren(...rows.flat());
  byId("skip-reasons").replaceChildren(...state.session.skip_reasons.map((reason, index) =>
    element("button", { on: { click: () => skip(reason) } }, element("kbd", { text: String(index + 1) }), " " + reason)));
  byId("comment").maxLength = state.session.max_comment;
  await next();
}

function start() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.token = given.get("token") ?? "";
  state.name = given.get("name") ?? "";
  byId("name").value = state.name || (localStorage.getItem("name") ?? "");
  byId("name-form").addEventListener("submit", (event) => {
    event.preventDefault();
    state.name = byId("name").value;
    state.token = byId("token").value.trim() || state.token;
    begin();
  });
  if (state.name) {
    begin();
  } else {
    show("begin");
    byId("name").focus();
  }
}

// Items.

async function next() {
  clearTimeout(state.timer);
  let given;
  try {
    given = await api("next");
  } catch (error) {
    return say(error.message, "error");
  }
  progress(given.progress);
  state.number = null;
  if (given.sheet) return open(given.sheet, null);
  show("end");
  state.sheet = null;
  byId("end-title").textContent = given.done ? "Nothing is left for you" : "Nothing is free just now";
  byId("end-text").textContent = given.done
    ? `You have finished ${state.mine} items. Thank you.`
    : `${given.later} items are with other people. This page looks again by itself.`;
  byId("end-back").hidden = state.mine === 0;
  if (!given.done) state.timer = setTimeout(next, PATIENCE);
}

function progress(now) {
  state.mine = now.mine;
  byId("progress").hidden = false;
  byId("mine").textContent = `${now.mine} by you`;
  byId("of").textContent = `${now.all} of ${now.wanted}`;
  byId("all").max = Math.max(1, now.wanted);
  byId("all").value = now.all;
  byId("back").disabled = state.mine === 0;
}

/** A number that tells the drafts of different texts apart. */
function mark(sheet) {
  let hash = 0;
  for (const char of JSON.stringify(sheet)) hash = (hash * 31 + char.codePointAt(0)) | 0;
  return (hash >>> 0).toString(16);
}

function open(sheet, answer) {
  state.sheet = sheet;
  const count = sheet.responses.length;
  state.draft = `draft ${state.name} ${sheet.task} ${mark(sheet)}`;
  state.answer = answer ?? answers.empty(count);
  try {
    const draft = JSON.parse(localStorage.getItem(state.draft));
    if (draft && draft.values.length === count) state.answer = draft;
  } catch { /* a damaged draft is none */ }
  state.focus = 0;
  state.flagging = false;
  state.lastTick = state.lastActive = Date.now();
  show("work");
  const isEdit = state.number !== null;
  byId("editing").hidden = !isEdit;
  byId("editing").textContent = isEdit
    ? `You are changing answer ${state.number + 1} of ${state.mine}. Enter saves it, Esc leaves it as it was.` : "";
  byId("prompt").replaceChildren(...prompt(sheet.prompt));
  byId("prompt").scrollTop = 0;
  byId("question").textContent = QUESTION[state.session.ask];
  byId("responses").style.setProperty("--count", Math.min(count, 4));
  byId("responses").dataset.count = count;
  byId("responses").replaceChildren(...sheet.responses.map(card));
  scrollTogether([...document.querySelectorAll(".pane")]);
  byId("comment").value = state.answer.comment;
  say("");
  update();
  focusOn(0);
}

const isRank = () => state.session.ask === "rank";
const isPair = () => state.session.ask === "pair";

function card(response, index) {
  const most = isRank() ? state.sheet.responses.length : state.session.scale;
  const values = isPair() ? [] : Array.from({ length: most }, (_, place) => place + 1);
  const button = (label, title, run) => element("button",
    { tabindex: -1, class: "value", title, "data-value": label, on: { click: () => { run(); focusOn(index); } } }, String(label));
  const buttons = isPair()
    ? [button("better", "better", () => chosen(index, "better", false)),
      button("much better", "much better", () => chosen(index, "much", false))]
    : values.map((value) => button(value, isRank() ? `place ${value}` : `score ${value}`, () => set(index, value)));
  const handle = element("span", { class: "letter", draggable: isRank() ? "true" : false, text: letter(index),
    title: isRank() ? "drag into your order" : false, on: { dragstart: (event) => drag(event, index) } });
  const flags = state.session.flags.map((flag, number) => element("button",
    { tabindex: -1, class: "flag", "data-flag": flag, on: { click: () => { mark_as(index, flag); focusOn(index); } } },
    element("kbd", { text: String(number + 1) }), flag));
  return element("article", { class: "response", tabindex: 0, "data-index": index, "aria-label": `Response ${letter(index)}`,
    on: { focus: () => focused(index), pointerdown: () => focused(index) } },
    element("header", {}, handle, element("span", { class: "given" }), element("span", { class: "values" }, ...buttons)),
    element("div", { class: "pane" }, text(response)),
    element("footer", { class: "flags" }, ...flags));
}

// Answers.

function changed() {
  localStorage.setItem(state.draft, JSON.stringify(state.answer));
  say("");
  update();
}

function set(index, value) {
  state.answer.values[index] = value;
  changed();
}

function chosen(better, strength, bothBad) {
  answers.choose(state.answer, better, strength, bothBad);
  changed();
}

function mark_as(index, flag) {
  const flags = state.answer.flags[index];
  state.answer.flags[index] = flags.includes(flag) ? flags.filter((other) => other !== flag) : [...flags, flag];
  changed();
}

function say(message, kind = "") {
  byId("message").textContent = message;
  byId("message").className = "message " + kind;
}

const ORDINALS = ["1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th"];

function given(index) {
  const value = state.answer.values[index];
  if (value === null) return "";
  if (state.session.ask === "score") return String(value);
  if (isPair()) {
    if (state.answer.values[0] === state.answer.values[1]) return state.answer.bothBad ? "bad" : "tie";
    return value === 1 ? (state.answer.strength === "much" ? "much better" : "better") : "";
  }
  const places = answers.dense(state.answer.values);
  const ties = places.filter((place) => place === places[index]).length > 1;
  return ORDINALS[places[index] - 1] + (ties ? " =" : "");
}

function update() {
  document.querySelectorAll(".response").forEach((own, index) => {
    own.classList.toggle("here", index === state.focus);
    own.classList.toggle("flagging", state.flagging && index === state.focus);
    own.classList.toggle("done", state.answer.values[index] !== null);
    own.querySelector(".given").textContent = given(index);
    own.querySelectorAll(".value").forEach((button) => button.setAttribute("aria-pressed", isPair()
      ? given(index) === button.dataset.value : String(state.answer.values[index]) === button.dataset.value));
    own.querySelectorAll(".flag").forEach((button) =>
      button.setAttribute("aria-pressed", state.answer.flags[index].includes(button.dataset.flag)));
  });
  const missing = answers.missing(state.answer).length > 0;
  byId("submit").classList.toggle("ready", !missing);
  const hooks = { changed: (index) => { changed(); focusOn(index); }, focusOn };
  byId("order").replaceChildren(...(isRank() ? order(state.answer, hooks) : isPair() ? verdicts(state, hooks) : []));
}

// Sending.

async function submit(skipped = null) {
  if (state.isBusy || !state.sheet) return;
  const missing = answers.missing(state.answer);
  if (!skipped && missing.length > 0) {
    const what = { rank: "no place", score: "no score", pair: "no verdict" }[state.session.ask];
    focusOn(missing[0]);
    return say(isPair() ? "There is no verdict yet." : `${missing.map(letter).join(", ")} has ${what} yet.`, "error");
  }
  state.isBusy = true;
  try {
    const body = { task: state.sheet.task, answer: answers.sent(state.answer, state.session.ask, skipped) };
    const saved = await api("judgment", body);
    localStorage.removeItem(state.draft);
    progress(saved.progress);
  } catch (error) {
    state.isBusy = false;
    if (error.status !== 409) return say(`Not saved: ${error.message}`, "error");
    localStorage.removeItem(state.draft);
  }
  state.isBusy = false;
  await next();
}

function skip(reason) {
  byId("skip-dialog").close();
  submit(reason);
}

async function back() {
  const number = (state.number ?? state.mine) - 1;
  if (number < 0) return say("There is no earlier answer.");
  let given;
  try {
    given = await api("finished", { number });
  } catch (error) {
    return say(error.message, "error");
  }
  progress(given.progress);
  clearTimeout(state.timer);
  state.number = number;
  open(given.sheet, answers.received(given.answer, given.sheet.responses.length));
  if (given.answer.skipped) say(`It was skipped: ${given.answer.skipped}.`);
}

// Focus, time, keys.

function focused(index) {
  if (state.focus !== index) state.flagging = false;
  state.focus = index;
  update();
}

function focusOn(index) {
  const cards = document.querySelectorAll(".response");
  const own = cards[(index + cards.length) % cards.length];
  own.focus({ preventScroll: true });
  own.scrollIntoView({ block: "nearest" });
}

function showGuideline(isShown) {
  byId("guideline").hidden = !isShown;
  byId("show-guideline").setAttribute("aria-expanded", isShown);
}

function toggleGuideline() {
  showGuideline(byId("guideline").hidden);
  localStorage.setItem("guideline", byId("guideline").hidden ? "closed" : "open");
}

function tick() {
  const now = Date.now();
  if (state.sheet && document.visibilityState === "visible" && now - state.lastActive < IDLE) {
    state.answer.seconds += Math.min(5, (now - state.lastTick) / 1000);
  }
  state.lastTick = now;
}

/** The place is set; the next response without one is in focus. */
function placed(value) {
  set(state.focus, value);
  const missing = answers.missing(state.answer);
  const following = missing.find((index) => index > state.focus) ?? missing[0];
  if (following !== undefined && value !== null) focusOn(following);
}

function key(event) {
  const { key } = event;
  const digit = /^[0-9]$/.test(key) ? Number(key) : null;
  if (state.flagging && digit) {
    const flag = state.session.flags[digit - 1];
    if (flag) mark_as(state.focus, flag);
    return true;
  }
  if (digit !== null && !isPair()) {
    const most = isRank() ? state.sheet.responses.length : state.session.scale;
    const value = digit === 0 ? (isRank() ? null : 10) : digit;
    if (value === null || value <= most) placed(value);
    else say(`The highest is ${most}.`);
    return true;
  }
  if (isPair() && (key === "ArrowLeft" || key === "ArrowRight")) {
    chosen(key === "ArrowLeft" ? 0 : 1, event.shiftKey ? "much" : "better", false);
    return true;
  }
  if (key === "=") {
    if (isPair()) chosen(null, null, false);
    else if (isRank() && state.focus > 0) {
      const above = state.answer.values[state.focus - 1];
      if (above === null) say(`${letter(state.focus - 1)} has no place yet.`);
      else placed(above);
    }
    return true;
  }
  if (key === "b" && isPair()) return chosen(null, null, true), true;
  const run = {
    j: () => focusOn(state.focus + 1),
    k: () => focusOn(state.focus - 1),
    s: () => byId("skip-dialog").showModal(),
    f: () => { state.flagging = !state.flagging; update(); },
    c: () => byId("comment").focus(),
    Enter: () => submit(),
    " ": () => {
      const pane = document.querySelectorAll(".pane")[state.focus];
      pane.scrollTop += (event.shiftKey ? -0.8 : 0.8) * pane.clientHeight;
    },
  }[key];
  if (run) run();
  return Boolean(run);
}

document.addEventListener("keydown", (event) => {
  state.lastActive = Date.now();
  if (event.ctrlKey || event.metaKey || event.altKey || !state.session || event.isComposing) return;
  const { key: pressed, target } = event;
  if (byId("skip-dialog").open) {
    const reason = state.session.skip_reasons[Number(pressed) - 1];
    if (reason) { event.preventDefault(); skip(reason); }
    return;
  }
  if (byId("keys-dialog").open) {
    if (pressed === "?") byId("keys-dialog").close();
    return;
  }
  if (target.id === "comment") {
    if (pressed === "Enter" || pressed === "Escape") { event.preventDefault(); focusOn(state.focus); }
    return;
  }
  if (target instanceof HTMLInputElement) return;
  if (target.closest("button, a") && !target.closest(".response") && (pressed === "Enter" || pressed === " ")) return;
  const always = {
    g: toggleGuideline,
    "?": () => byId("keys-dialog").showModal(),
    u: back,
    Escape: () => {
      if (state.flagging) { state.flagging = false; update(); }
      else if (state.number !== null) { localStorage.removeItem(state.draft); next(); }
    },
  }[pressed];
  if (always) { event.preventDefault(); always(); }
  else if (state.sheet && !byId("work").hidden && key(event)) event.preventDefault();
});

for (const active of ["pointerdown", "wheel"]) {
  document.addEventListener(active, () => { state.lastActive = Date.now(); }, { passive: true });
}
byId("comment").addEventListener("input", (event) => {
  state.answer.comment = event.target.value;
  localStorage.setItem(state.draft, JSON.stringify(state.answer));
});
byId("show-guideline").addEventListener("click", toggleGuideline);
byId("show-keys").addEventListener("click", () => byId("keys-dialog").showModal());
byId("back").addEventListener("click", back);
byId("end-back").addEventListener("click", back);
byId("skip").addEventListener("click", () => byId("skip-dialog").showModal());
byId("submit").addEventListener("click", () => submit());
window.addEventListener("hashchange", () => location.reload());
setInterval(tick, 1000);
start();
