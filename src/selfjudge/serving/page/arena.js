// Blind pairs of two models, voted on by key or button, and how far the judge agrees.

import { file, get, post } from "./api.js";
import { busy, count, digits, element, onSend, say } from "./dom.js";

const EVERY = 5000;
const VOTES = [["A", "A is better (←)"], ["tie", "A tie (T)"], ["B", "B is better (→)"]];
const KEYS = { ArrowLeft: "A", ArrowRight: "B", t: "tie", T: "tie" };

export function arena(section, model) {
  const form = section.querySelector("form");
  const result = section.querySelector(".result");
  let waiting = null;

  const vote = (chosen) => busy(section, async () => {
    const pair = waiting;
    waiting = null;
    try {
      const told = await post("v1/arena/votes", { pair: pair.id, vote: chosen });
      result.replaceChildren(...cards(pair, told));
      say(section, outcome(chosen, told));
    } catch (error) {
      waiting = pair;
      throw error;
    }
    await refresh(section);
  }).then(() => waiting === null && form.querySelector("button").focus());

  onSend(form, () => busy(section, async () => {
    say(section, "Drawing an answer of each model …");
    waiting = null;
    result.replaceChildren();
    await model();
    const fields = Object.fromEntries(new FormData(form));
    const pair = await post("v1/arena/pairs", { prompt: fields.prompt, temperature: Number(fields.temperature) });
    const buttons = VOTES.map(([chosen, name]) => element("button", { type: "button", onclick: () => vote(chosen) }, name));
    const choice = element("div", { class: "row", role: "group", "aria-label": "Vote", tabindex: "-1" }, ...buttons);
    result.replaceChildren(...cards(pair, null), choice);
    say(section, "Which is better?");
    waiting = pair;
    choice.focus();
  }));

  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input, textarea, select");
    if (section.hidden || waiting === null || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!(event.key in KEYS)) return;
    event.preventDefault();
    vote(KEYS[event.key]);
  });

  section.querySelector("#export").addEventListener("click", () => busy(section, save));
  section.addEventListener("shown", () => busy(section, async () => {
    await model();
    await refresh(section);
  }));
  setInterval(() => {
    // What others voted meanwhile; a server that has gone is told when something is asked of it.
    if (!section.hidden && !document.hidden && !form.hidden) refresh(section).catch(() => {});
  }, EVERY);
}

function cards(pair, told) {
  const sides = [["A", pair.response_a, told?.model_a], ["B", pair.response_b, told?.model_b]];
  const made = sides.map(([side, text, name]) => element("article", { class: "card" },
    element("h3", {}, name === undefined ? side : `${side}: ${name}`), element("p", { class: "text" }, text)));
  return [element("div", { class: "pair" }, ...made)];
}

function outcome(chosen, { preferred, strength }) {
  const yours = chosen === "tie" ? "You voted for a tie" : `You voted for ${chosen}`;
  if (preferred === "tie") return `${yours}; the judge calls it a tie.`;
  return `${yours}; the judge prefers ${preferred} (strength ${digits(preferred === "A" ? strength : 1 - strength)}).`;
}

async function refresh(section) {
  const state = await get("v1/arena");
  if (state.needed !== null) {
    section.querySelector("#arena-what").textContent = state.needed;
    return;
  }
  section.querySelector("form").hidden = false;
  section.querySelector("#tally").hidden = false;
  section.querySelector("#agreement").textContent = agreement(state.agreement);
  const wins = state.models.map((name) => `${name} ${count(state.wins[name], "win")}`);
  section.querySelector("#wins").textContent = `${wins.join("; ")}; ${count(state.ties, "tie")}.`;
}

function agreement(rate) {
  if (rate === null) return "Nobody has voted for a side yet.";
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  return `The judge agrees with the people on ${percent(rate.rate)} of ${count(rate.n, "vote")} for a side; `
    + `95 % interval ${percent(rate.low)} to ${percent(rate.high)}.`;
}

async function save() {
  const link = element("a", { download: "votes.jsonl", href: URL.createObjectURL(await file("v1/arena/votes.jsonl")) });
  link.click();
  URL.revokeObjectURL(link.href);
}
