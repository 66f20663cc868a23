// The owner's page: how far the work is, and how the annotators agree. It is refreshed every ten seconds.

import { element } from "/view.js";

const byId = (id) => document.getElementById(id);
const EVERY = 10_000;
const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? "";

const share = ({ agreeing, all }) => (all === 0 ? "–" : `${Math.round((100 * agreeing) / all)} %`);
const withCount = (counts) => (counts.all === 0 ? "–" : `${share(counts)} of ${counts.all}`);
const seconds = (value) => (value === null ? "–" : value < 120 ? `${value.toFixed(0)} s` : `${(value / 60).toFixed(1)} min`);

function show(id, ...children) {
  byId(id).hidden = children.length === 0;
  byId(id).replaceChildren(...children);
}

const number = (value, label) => element("div", {}, element("b", { text: String(value) }), element("span", { text: label }));

function table(head, rows) {
  const cell = (tag) => (value, column) => element(tag, { class: column === 0 ? "name" : "" }, value);
  return element("table", {}, element("tr", {}, ...head.map(cell("th"))),
    ...rows.map((row) => element("tr", {}, ...row.map(cell("td")))));
}

function render(now) {
  show("numbers",
    number(`${now.judgments} of ${now.wanted}`, "judgments"),
    number(now.items, "items"),
    number(now.annotators.length, "annotators"),
    number(now.reserved, "on a screen now"),
    number(seconds(now.median_seconds), "median time"),
    number(share(now.agreement), "of pairs in the same order"),
    number(now.alpha === null ? "–" : now.alpha.toFixed(2), "Krippendorff's α"));
  const most = Math.max(1, ...now.items_by_judgments);
  const bars = now.items_by_judgments.map((count, judgments) => [
    judgments === 1 ? "1 judgment" : `${judgments} judgments`,
    element("progress", { max: most, value: count, "aria-label": "items" }), String(count)]);
  show("items", element("h2", { text: "Items by their judgments" }), table(["", "", "items"], bars));
  const people = now.annotators.map((own) => [own.name, String(own.judgments), String(own.skipped),
    seconds(own.median_seconds), withCount(own.agreement), withCount(own.consistency), withCount(own.gold),
    own.last.replace("T", " ").replace("Z", "")]);
  const head = ["annotator", "judgments", "skipped", "median time", "agrees with others", "with himself", "with known answers", "last (UTC)"];
  show("annotators", element("h2", { text: "Annotators" }), people.length ? table(head, people)
    : element("p", { text: "Nobody has judged anything yet." }), element("p", { class: "hint",
    text: "Agreement: the share of pairs of responses that are put in the same order (better, worse, tied)." }));
  const skips = now.skips.map((skip) => [`line ${skip.number}`, skip.annotator, skip.reason, skip.comment ?? ""]);
  show("skips", ...(skips.length ? [element("h2", { text: "Skipped" }), table(["item", "annotator", "reason", "comment"], skips)] : []));
}

async function refresh() {
  try {
    const headers = { "Content-Type": "application/json", Authorization: `Bearer ${token}` };
    const response = await fetch("/api/owner", { method: "POST", headers, body: "{}" });
    const read = await response.json();
    if (!response.ok) throw new Error(read.error);
    render(read);
    byId("error").textContent = "";
    byId("updated").textContent = `as of ${new Date().toLocaleTimeString()}`;
  } catch (error) {
    byId("error").textContent = error instanceof TypeError ? "The service does not answer." : error.message;
  }
}

window.addEventListener("hashchange", () => location.reload());
setInterval(refresh, EVERY);
refresh();
