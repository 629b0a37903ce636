// One run: its signs and curves, what its judge said, and what it was told to do.

import { Chart, short } from "./chart.js";
import { count, digits, element } from "./dom.js";

const OPEN_PAIRS = 4;
const OPEN_CHARTS = 9;
const SILENT = 600;
const RATES = {
  accuracy: "right on labelled pairs", agreement: "both orders agree", first_shown_rate: "prefers the response shown first",
  longer_share: "prefers the longer", longer_wins: "the longer is right", former_agreement: "judges as the judge before",
};

/** "3 min ago": how long ago a time was. */
export function ago(time) {
  const seconds = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  if (seconds < 60) return "just now";
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

/** A word on how a run is. One that says it is running and has written nothing for long is silent. */
export function state(run) {
  const silent = run.status === "running" && run.updated !== null && (Date.now() - Date.parse(run.updated)) / 1000 > SILENT;
  const name = silent ? "silent" : run.stopped !== null ? "stopped" : run.status;
  return element("span", { class: `badge ${name}` }, name === "stopped" ? "stopped early" : name);
}

/** "train · step 120 · loss 0.64 · 3 min ago". */
export function facts(run) {
  const parts = [run.stage, run.step === null ? null : `step ${short(run.step)}`];
  for (const [name, value] of Object.entries(run.last)) parts.push(`${name.replace("rollout/", "")} ${short(value)}`);
  if (run.unread > 0) parts.push(`reading, ${(run.unread / 2 ** 20).toFixed(0)} MiB to go`);
  parts.push(run.updated === null ? null : ago(run.updated));
  return parts.filter((part) => part !== null).join(" · ");
}

/** What is shown of one run; `update` gives it what there is now, and leaves alone what has not changed. */
export class RunView {
  constructor(name) {
    this.shown = new Map();
    this.charts = new Map();
    this.heading = element("h3", { tabindex: "-1" }, name === "." ? "The directory's own run" : name);
    this.state = element("span", {});
    this.facts = element("p", { class: "dim" });
    this.parts = Object.fromEntries(["problem", "nested", "signs", "curves", "verdicts", "judge", "pairs", "recipe"]
      .map((part) => [part, element("div", { class: part })]));
    this.body = element("div", { class: "run" },
      element("p", {}, element("a", { href: "#runs" }, "← All runs")),
      element("div", { class: "row title" }, this.heading, this.state), this.facts, ...Object.values(this.parts));
  }

  update(told) {
    const { run, signs } = told;
    this.state.replaceChildren(state(run));
    this.facts.textContent = facts(run);
    this.put("problem", [run.problem, run.stopped, told.damaged_lines], () => problems(told));
    this.put("nested", told.nested, nested);
    this.put("signs", signs, signList);
    this.curves(told.charts, new Set(signs.filter((sign) => sign.raised).map((sign) => sign.metric)));
    this.put("verdicts", told.verdicts, statistics);
    this.put("judge", told.judge, judge);
    this.pairs(told.pairs);
    this.put("recipe", told.recipe, (text) => text === null ? []
      : [element("details", {}, element("summary", {}, "The recipe"), element("pre", { class: "text" }, text))]);
  }

  /** Makes a part again if what it shows has changed: a text that somebody reads or marks stays where it is. */
  put(part, value, make) {
    const key = JSON.stringify(value);
    if (this.shown.get(part) === key) return;
    this.shown.set(part, key);
    this.parts[part].replaceChildren(...make(value));
  }

  curves(charts, raised) {
    if (charts.length && this.charts.size === 0) {
      this.grids = [0, 1].map(() => element("div", { class: "cards" }));
      this.more = element("details", {}, element("summary", {}, "More curves"), this.grids[1]);
      this.parts.curves.replaceChildren(element("h3", {}, "Curves"), this.grids[0], this.more);
    }
    const titles = charts.map((chart) => chart.title);
    for (const [title, chart] of this.charts) {
      if (titles.includes(title)) continue;
      chart.figure.remove();
      this.charts.delete(title);
    }
    charts.forEach(({ title, series }, i) => {
      if (!this.charts.has(title)) this.charts.set(title, new Chart(title));
      const { figure } = this.charts.get(title);
      const [grid, at] = i < OPEN_CHARTS ? [this.grids[0], i] : [this.grids[1], i - OPEN_CHARTS];
      if (grid.children[at] !== figure) grid.insertBefore(figure, grid.children[at] ?? null);
      this.charts.get(title).update(series, series.some((line) => raised.has(line.name)));
    });
    if (this.more) this.more.hidden = charts.length <= OPEN_CHARTS;
  }

  pairs(pairs) {
    const open = this.parts.pairs.querySelector("details")?.open;
    this.put("pairs", pairs, () => {
      if (pairs.length === 0) return [];
      const rest = pairs.slice(OPEN_PAIRS).map(pair);
      const more = element("details", open ? { open: "" } : {}, element("summary", {}, `${rest.length} more`), ...rest);
      return [element("h3", {}, "Judged pairs, the newest first"), ...pairs.slice(0, OPEN_PAIRS).map(pair),
        rest.length ? more : ""];
    });
  }
}

function problems({ run, damaged_lines: damaged }) {
  const told = [];
  if (run.problem !== null) told.push(element("p", { class: "warn" }, run.problem));
  if (run.stopped !== null) told.push(element("p", {}, element("b", {}, "Stopped early: "), `${run.stopped}.`));
  if (damaged) told.push(element("p", { class: "warn" }, `${count(damaged, "line")} of its logs cannot be read and ${damaged === 1 ? "is" : "are"} left out.`));
  return told;
}

function nested(names) {
  if (names.length === 0) return [];
  const links = names.flatMap((name) => [" ", element("a", { href: address(name) }, name)]);
  return [element("p", {}, "Runs within it:", ...links)];
}

export function address(name) {
  return `#runs/${name.split("/").map(encodeURIComponent).join("/")}`;
}

function signList(signs) {
  if (signs.length === 0) return [];
  const raised = signs.filter((sign) => sign.raised);
  const alarms = raised.map((sign) => element("li", { class: "raised" },
    element("p", {}, element("b", { class: "warn" }, "Alarm: "), sign.what), element("p", { class: "dim" }, sign.advice)));
  const quiet = signs.filter((sign) => !sign.raised).map((sign) => element("li", { class: "dim" }, sign.what));
  return [element("h3", {}, raised.length ? count(raised.length, "alarm") : "No alarm"),
    element("ul", { class: "plain" }, ...alarms, ...quiet)];
}

function statistics(found) {
  if (found === null) return [];
  const rows = [["both orders agree", percent(found.agreement)], ["ties", percent(found.ties)],
    ["mean strength of the winner", digits(found.strength)]];
  if (found.longer_preferred) rows.push(["the longer response is preferred", percent(found.longer_preferred)]);
  const of = `Of the ${count(found.judged, "judged pair")} in rollouts.jsonl, from the whole run; with 95 % intervals.`;
  return [element("h3", {}, "Verdicts"), element("p", { class: "dim" }, of), table(rows)];
}

function judge(rates) {
  const rows = Object.entries(rates).map(([name, rate]) => [RATES[name] ?? name.replaceAll("_", " "), percent(rate)]);
  return rows.length ? [element("h3", {}, "As a judge of held-out pairs"), table(rows)] : [];
}

function table(rows) {
  return element("table", {}, ...rows.map(([name, value]) =>
    element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value))));
}

function percent({ rate, low, high, n }) {
  const share = (value) => (100 * value).toFixed(1);
  return `${share(rate)} % [${share(low)}, ${share(high)}] of ${n}`;
}

function pair({ step, prompt, response_a: a, response_b: b, preferred, strength, agree }) {
  const side = (name, text) => element("article", { class: `card ${preferred === name ? "won" : ""}` },
    element("h4", {}, preferred === name ? `${name}: preferred` : name), element("p", { class: "text" }, text));
  return element("section", { class: "judged" },
    element("p", { class: agree === false ? "warn" : "dim" }, `step ${short(step)}: ${verdict(preferred, strength, agree)}`),
    element("p", { class: "text" }, prompt), element("div", { class: "pair" }, side("A", a), side("B", b)));
}

function verdict(preferred, strength, agree) {
  if (preferred === null) return "not judged";
  if (preferred === "tie") return "a tie";
  return `strength ${digits(preferred === "A" ? strength : 1 - strength)}, orders ${agree ? "agree" : "disagree"}`;
}
