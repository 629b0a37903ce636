// One model's tournament, shown while it happens.

import { BracketView } from "./bracket.js";
import { count, element } from "./dom.js";

const NO_ANSWER = "(no answer: cut off before it began)";

/** Draws into an element as it is told what happens; `tell` is given how far it is, `level` is that of its headings. */
export class RunView {
  constructor(into, tell, body, level = 3) {
    this.into = into;
    this.tell = tell;
    this.level = level;
    this.matches = 0;
    this.beside = element("div", { class: "pair" });
    this.bracket = element("div", { class: "bracket", tabindex: "0", role: "region", "aria-label": "Bracket" });
    this.list = element("ol", { class: "candidates" });
    this.drawing = [this.heading("Candidates, as drawn"), this.list];
    this.items = new Map();
    this.wanted = body.temperature === 0 ? 1 : body.n_candidates;
    into.replaceChildren();
    tell(`Drawing ${count(this.wanted, "candidate")} …`);
  }

  /** Takes an event: see "Requests" in docs/serving.md. */
  take(told) {
    if (told.candidate !== undefined) this.arrive(told.candidate, told.text);
    if (told.drawn) this.draw(told.drawn, told.left_out ?? []);
    if (told.pairings) {
      this.view.begin(told.pairings);
      this.tell(`${count(told.pairings.length, "match", "matches")} being judged …`);
    }
    if (told.matches) {
      this.view.fill(told.matches);
      this.matches += told.matches.length;
    }
    if (told.selfjudge) this.finish(told.selfjudge);
    if (told.usage) this.spent(told.usage);
  }

  /** A candidate is there, in whatever order; where drawing is repeated it comes again. */
  arrive(place, text) {
    if (this.items.size === 0) this.into.replaceChildren(...this.drawing);
    if (!this.items.has(place)) {
      const item = element("li", { class: "text", value: place + 1 });
      const next = [...this.items.keys()].filter((other) => other > place).sort((a, b) => a - b)[0];
      this.list.insertBefore(item, this.items.get(next) ?? null);
      this.items.set(place, item);
    }
    this.items.get(place).textContent = text;
    this.tell(`${this.items.size} of ${count(this.wanted, "candidate")} drawn …`);
  }

  draw(candidates, leftOut) {
    this.candidates = candidates;
    this.texts = candidates.map((text, place) => leftOut.includes(place) ? NO_ANSWER : text);
    this.texts.forEach((text, place) => this.arrive(place, text));
    this.view = new BracketView(this.bracket, this.texts, leftOut);
    const bracket = candidates.length - leftOut.length > 1 ? [this.heading("Bracket"), this.bracket] : [];
    this.into.replaceChildren(this.beside, ...bracket, ...this.drawing);
  }

  finish({ placing, complete, failure }) {
    const place = placing[0];
    this.winner = this.candidates[place];
    this.beside.append(this.card(`${complete ? "Winner" : "Best so far"}: #${place + 1}`, this.texts[place], "won"));
    if (this.texts.length > 1) {
      const same = place === 0 ? "First sample: the winner itself" : "First sample: #1";
      this.beside.append(this.card(same, this.texts[0], ""));
    }
    this.failure = failure;
  }

  card(title, text, kind) {
    return element("article", { class: `card ${kind}` }, this.heading(title), element("p", { class: "text" }, text));
  }

  heading(text) {
    return element(`h${this.level}`, {}, text);
  }

  spent({ prompt_tokens: read, completion_tokens: drawn }) {
    const parts = [count(this.texts.length, "candidate"), count(this.matches, "match", "matches")];
    this.tell(`Done: ${parts.join(", ")}; ${count(drawn, "token")} drawn, ${read} read.`);
  }
}
