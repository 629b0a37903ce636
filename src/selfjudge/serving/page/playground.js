// A prompt's way through a tournament, of one model or of two side by side.

import { Failure, stream } from "./api.js";
import { busy, element, onSend, say } from "./dom.js";
import { RunView } from "./run.js";
import { between } from "./versus.js";

/** Sets the playground going; returns what is told the models that are served. */
export function playground(section, model) {
  const form = section.querySelector("form");
  const stop = form.elements.stop;
  let served = [];
  let running = null;

  onSend(form, () => busy(section, async () => {
    const first = await model();
    running = new AbortController();
    stop.disabled = false;
    try {
      const rival = served.find(({ id }) => id === form.elements.rival.value && id !== first);
      await (rival ? compare(section, form, [first, rival.id], rival.judge, running.signal)
        : alone(section, form, first, running.signal));
    } catch (error) {
      running.abort();
      if (error.name !== "AbortError") throw error;
      say(section, "Stopped.");
    } finally {
      stop.disabled = true;
    }
  }));
  stop.addEventListener("click", () => running.abort());

  return (models) => {
    served = models;
    const others = models.slice(1).map(({ id }) => element("option", { value: id }, id));
    form.elements.rival.replaceChildren(element("option", { value: "" }, "no other model"), ...others);
    form.elements.rival.closest("label").hidden = others.length === 0;
  };
}

async function alone(section, form, model, signal) {
  const body = request(form, model);
  const view = new RunView(section.querySelector(".result"), (text) => say(section, text), body);
  await run(view, body, signal);
}

/** Both models at once, each with a bracket of its own; then their winners meet. */
async function compare(section, form, models, judge, signal) {
  const bodies = models.map((name) => request(form, name));
  const columns = models.map((name, i) => column(name, "AB"[i]));
  const verdict = element("div", { "aria-live": "polite" });
  const sides = element("div", { class: "sides" }, ...columns.map(({ whole }) => whole));
  section.querySelector(".result").replaceChildren(verdict, sides);
  say(section, "Both models are drawing and judging …");
  const views = await Promise.all(columns.map(async ({ progress, into }, i) => {
    const view = new RunView(into, (text) => { progress.textContent = text; }, bodies[i], 4);
    try {
      await run(view, bodies[i], signal);
    } catch (error) {
      progress.textContent = "Broken off.";
      throw error;
    }
    return view;
  }));
  say(section, "The judge compares the winners …");
  verdict.replaceChildren(await between(bodies[0].messages, views, models, judge));
  say(section, "Done.");
}

function column(name, letter) {
  const id = `side-${letter}`;
  const progress = element("p", { class: "progress", role: "status" });
  const into = element("div");
  const title = element("h3", { id }, `${letter}: ${name}`);
  return { whole: element("section", { "aria-labelledby": id }, title, progress, into), progress, into };
}

function request(form, model) {
  const fields = Object.fromEntries(new FormData(form));
  return {
    model,
    messages: [{ role: "user", content: fields.prompt }],
    n_candidates: Number(fields.candidates),
    temperature: Number(fields.temperature),
    selfjudge: true,
    stream_options: { include_usage: true },
  };
}

async function run(view, body, signal) {
  await stream("v1/chat/completions", body, signal, (told) => view.take(told));
  if (view.failure) throw new Failure(view.failure);
}
