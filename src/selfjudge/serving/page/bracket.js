// A tournament that fills round by round.

import { element } from "./dom.js";
import { bars, summary } from "./verdict.js";

/**
 * Draws a bracket into an element as it is told what happens. Candidates are numbered from 1 for people; those at the
 * places `leftOut` take no part.
 */
export class BracketView {
  constructor(into, candidates, leftOut) {
    this.into = into;
    this.candidates = candidates;
    this.alive = candidates.map((_, i) => i).filter((i) => !leftOut.includes(i));
    this.cards = new Map();
  }

  /** A round begins: its pairings are shown before they are judged. */
  begin(pairings) {
    const cards = pairings.map(([a, b]) => {
      const card = element("li", { class: "match" }, this.side(a), this.side(b), element("p", { class: "dim" }, "…"));
      this.cards.set(`${a}-${b}`, card);
      return card;
    });
    const paired = new Set(pairings.flat());
    for (const i of this.alive.filter((i) => !paired.has(i))) {
      cards.push(element("li", { class: "match" }, this.side(i), element("p", { class: "dim" }, "goes on without a match")));
    }
    const title = pairings.length === 1 && this.alive.length === 2 ? "Final" : `Round ${this.into.children.length + 1}`;
    const list = element("ol", {}, ...cards);
    this.into.append(element("div", { class: "round" }, element("h4", {}, title), list));
  }

  /** Matches were judged. */
  fill(matches) {
    for (const { a, b, winner, verdict } of matches) {
      const lost = winner === a ? b : a;
      this.alive = this.alive.filter((i) => i !== lost);
      const decided = verdict.preferred === "tie" ? "tie, decided by the seed" : summary(verdict);
      this.cards.get(`${a}-${b}`).replaceChildren(
        this.side(a, winner === a),
        this.side(b, winner === b),
        bars(verdict.p, [`#${a + 1}`, `#${b + 1}`]),
        element("p", { class: verdict.agree ? "dim" : "warn" }, decided),
      );
    }
  }

  side(i, won) {
    const mark = won === undefined ? "" : won ? "won" : "lost";
    const shown = element("div", { class: `side ${mark}` }, element("b", {}, `#${i + 1}`), " ", this.candidates[i]);
    if (won) shown.append(element("span", { class: "badge" }, "wins"));
    return shown;
  }
}
