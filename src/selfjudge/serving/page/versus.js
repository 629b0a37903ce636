// The winners of two models' tournaments before the judge.

import { post } from "./api.js";
import { element } from "./dom.js";
import { bars, summary } from "./verdict.js";

/** Returns what is shown of the winners' match; `judge` names the model that judges. */
export async function between(messages, views, models, judge) {
  const [a, b] = views.map((view) => view.winner);
  if (a === b) return card(element("p", {}, "Both winners are the same text: there is nothing to judge."));
  const pair = { prompt: messages, response_a: a, response_b: b };
  const [verdict] = (await post("v1/judge", { pairs: [pair] })).verdicts;
  const found = verdict.preferred === "tie" ? "The judge calls it a tie."
    : `The judge prefers ${verdict.preferred}, the winner of ${models["AB".indexOf(verdict.preferred)]}.`;
  const details = verdict.preferred === "tie" ? "" : `${summary(verdict)}; `;
  return card(
    element("p", {}, element("b", {}, found)),
    bars(verdict.p, ["A", "B"]),
    element("p", { class: verdict.agree ? "dim" : "warn" }, `${details}judged by ${judge}`),
  );
}

function card(...parts) {
  return element("article", { class: "card" }, element("h3", {}, "Winner against winner"), ...parts);
}
