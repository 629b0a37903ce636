// One pair under the judge: by principle and order, and what an edit changes.

import { post } from "./api.js";
import { difference } from "./difference.js";
import { busy, digits, element, onSend, say } from "./dom.js";
import { bars, orders } from "./verdict.js";

const NAMES = { A: "A", B: "B", tie: "a tie" };
const FIELDS = [["prompt", "Prompt"], ["response_a", "Response A"], ["response_b", "Response B"]];

export function lens(section, model) {
  const form = section.querySelector("form");
  let before = null;

  const judge = () => busy(section, async () => {
    say(section, "Judging …");
    await model();
    const pair = Object.fromEntries(new FormData(form));
    const reply = await post("v1/judge", { pairs: [pair], principles: true });
    const now = { pair, verdict: reply.verdicts[0] };
    section.querySelector(".result").replaceChildren(...result(now, before));
    say(section, headline(now.verdict));
    before = now;
  });
  onSend(form, judge);
  form.elements.swap.addEventListener("click", () => {
    const { response_a: a, response_b: b } = form.elements;
    [a.value, b.value] = [b.value, a.value];
    form.requestSubmit(form.querySelector("button.main"));
  });
}

function headline(verdict) {
  if (verdict.preferred === "tie") return "The judge calls it a tie.";
  const how = verdict.agree ? "both orders agree" : "the two orders disagree";
  return `The judge prefers ${verdict.preferred}: strength ${digits(ahead(verdict))}, ${how}.`;
}

function ahead(verdict) {
  return verdict.preferred === "B" ? 1 - verdict.strength : verdict.strength;
}

function result(now, before) {
  const parts = [];
  if (before !== null) parts.push(element("h3", {}, "Since the verdict before"), ...changes(now, before));
  const { verdict } = now;
  const shown = verdict.principles.length > 1 ? [...verdict.principles, { ...verdict, principle: "all together" }]
    : verdict.principles;
  const old = new Map(before?.verdict.principles.map((p) => [p.principle, p]));
  if (before !== null) old.set("all together", before.verdict);
  parts.push(element("h3", {}, "By principle and order"));
  parts.push(element("div", { class: "cards" }, ...shown.map((p) => card(p, old.get(p.principle)))));
  return parts;
}

/** One principle: both orders, what the place is worth, and how far A's strength has moved. */
function card(p, old) {
  const [first, second] = orders(p.p);
  const gain = (first.a - second.a - first.b + second.b) / 2;
  const place = `Shown first, a response gets ${digits(Math.abs(gain))} ${gain < 0 ? "less" : "more"} than shown second.`;
  const made = element("article", { class: "card" },
    element("h4", {}, `${p.principle}: ${NAMES[p.preferred]}`),
    bars(p.p, ["A", "B"]),
    element("p", { class: p.agree || p.preferred === "tie" ? "dim" : "warn" },
      `Strength for A ${digits(p.strength)}${old ? `, was ${digits(old.strength)}` : ""}; `
      + `orders ${p.agree ? "agree" : "disagree"}; ${digits(p.label_mass)} of the probability is on the labels.`),
    element("p", { class: "dim" }, place),
  );
  return made;
}

function changes(now, before) {
  const parts = [];
  for (const [field, name] of FIELDS) {
    if (now.pair[field] === before.pair[field]) continue;
    const pieces = difference(before.pair[field], now.pair[field]).map(([kind, text]) => marked(kind, text));
    parts.push(element("p", { class: "text change" }, element("b", {}, `${name} `), ...pieces));
  }
  if (parts.length === 0) parts.push(element("p", { class: "dim" }, "The texts are the same."));
  const was = before.verdict;
  const is = now.verdict;
  const moved = is.strength - was.strength;
  const turned = was.preferred === is.preferred ? `The verdict stays ${NAMES[is.preferred]}`
    : `The verdict has turned from ${NAMES[was.preferred]} to ${NAMES[is.preferred]}`;
  const step = `${digits(moved) === "-0.00" ? "±" : moved < 0 ? "−" : "+"}${digits(Math.abs(moved))}`;
  const sentence = `${turned}; strength for A ${digits(was.strength)} → ${digits(is.strength)} (${step}).`;
  parts.push(element("p", { class: was.preferred === is.preferred ? "" : "warn" }, sentence));
  return parts;
}

function marked(kind, text) {
  if (kind === "same") return text;
  return element(kind === "gone" ? "del" : "ins", {}, text);
}
