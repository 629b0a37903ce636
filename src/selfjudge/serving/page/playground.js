// A prompt's way through a tournament, shown while it happens.

import { Failure, stream } from "./api.js";
import { BracketView } from "./bracket.js";
import { busy, count, element, onSend, say } from "./dom.js";

export function playground(section, model) {
  const form = section.querySelector("form");
  const stop = form.elements.stop;
  let running = null;

  onSend(form, () => busy(section, async () => {
    running = new AbortController();
    stop.disabled = false;
    try {
      await run(section, form, await model(), running.signal);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
      say(section, "Stopped.");
    } finally {
      stop.disabled = true;
    }
  }));
  stop.addEventListener("click", () => running.abort());
}

async function run(section, form, model, signal) {
  const fields = Object.fromEntries(new FormData(form));
  const body = {
    model,
    messages: [{ role: "user", content: fields.prompt }],
    n_candidates: Number(fields.candidates),
    temperature: Number(fields.temperature),
    selfjudge: true,
    stream_options: { include_usage: true },
  };
  const view = new RunView(section, body);
  await stream("v1/chat/completions", body, signal, (told) => view.take(told));
  if (view.failure) throw new Failure(view.failure);
}

/** What is shown of one run. */
class RunView {
  constructor(section, body) {
    this.section = section;
    this.matches = 0;
    this.beside = element("div", { class: "pair" });
    this.bracket = element("div", { class: "bracket", tabindex: "0", role: "region", "aria-label": "Bracket" });
    this.list = element("ol", { class: "candidates" });
    section.querySelector(".result").replaceChildren(this.beside);
    const n = body.temperature === 0 ? 1 : body.n_candidates;
    say(section, `Drawing ${count(n, "candidate")}, together …`);
  }

  /** Takes an event: see "Requests" in docs/serving.md. */
  take(told) {
    if (told.drawn) this.draw(told.drawn);
    if (told.pairings) {
      this.view.begin(told.pairings);
      say(this.section, `${count(told.pairings.length, "match", "matches")} being judged …`);
    }
    if (told.matches) {
      this.view.fill(told.matches);
      this.matches += told.matches.length;
    }
    if (told.selfjudge) this.finish(told.selfjudge);
    if (told.usage) this.spent(told.usage);
  }

  draw(candidates) {
    this.candidates = candidates;
    this.view = new BracketView(this.bracket, candidates);
    this.list.replaceChildren(...candidates.map((text) => element("li", { class: "text" }, text)));
    const result = this.section.querySelector(".result");
    if (candidates.length > 1) result.append(element("h3", {}, "Bracket"), this.bracket);
    result.append(element("h3", {}, "Candidates, as drawn"), this.list);
  }

  finish({ placing, complete, failure }) {
    const winner = placing[0];
    const found = complete ? "Winner" : "Best so far";
    this.beside.append(this.card(`${found}: #${winner + 1}`, this.candidates[winner], "won"));
    if (this.candidates.length > 1) {
      const same = winner === 0 ? "First sample: the winner itself" : "First sample: #1";
      this.beside.append(this.card(same, this.candidates[0], ""));
    }
    this.failure = failure;
  }

  card(title, text, kind) {
    return element("article", { class: `card ${kind}` }, element("h3", {}, title), element("p", { class: "text" }, text));
  }

  spent({ prompt_tokens: read, completion_tokens: drawn }) {
    const parts = [count(this.candidates.length, "candidate"), count(this.matches, "match", "matches")];
    say(this.section, `Done: ${parts.join(", ")}; ${count(drawn, "token")} drawn, ${read} read.`);
  }
}
