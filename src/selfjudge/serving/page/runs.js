// The runs under the server's directory: a list, and one of them, as they are at this moment.

import { get } from "./api.js";
import { count, element, say } from "./dom.js";
import { address, facts, RunView, state } from "./run_view.js";

const EVERY = 3000;
const ALARMS = { length: "responses grow", chosen: "chosen log-probs fall", agreement: "orders agree less", position: "judged by position", kl: "far from the reference" };

export function runs(section, model) {
  const error = section.querySelector(".error");
  const result = section.querySelector(".result");
  const list = new RunList();
  let view = null;
  let shown = null;
  let asking = false;

  /** Shows the list or a run, and puts the focus where somebody who came by keyboard goes on. */
  const turnTo = (name) => {
    if (shown === name) return;
    const before = shown;
    shown = name;
    view = name === "" ? null : new RunView(name);
    result.replaceChildren(view ? view.body : list.body);
    if (before === null) return;
    window.scrollTo(0, 0);
    if (view) view.heading.focus();
    else list.focus(before);
  };

  const refresh = async () => {
    const name = wanted();
    turnTo(name);
    if (asking) return;
    asking = true;
    try {
      await model();
      const told = await get(name === "" ? "v1/runs" : `v1/run?name=${encodeURIComponent(name)}`);
      // Somebody may have gone on meanwhile.
      if (shown === name) view ? view.update(told) : list.update(section, told);
      error.hidden = true;
    } catch (failure) {
      if (shown === name) error.textContent = failure.message;
      error.hidden = false;
    } finally {
      asking = false;
    }
    if (wanted() !== name && !section.hidden) await refresh();
  };

  section.addEventListener("shown", refresh);
  const again = () => section.hidden || document.hidden || refresh();
  setInterval(again, EVERY);
  document.addEventListener("visibilitychange", again);
}

/** The run that the address names; "" is the list. */
function wanted() {
  const [, ...parts] = location.hash.split("/");
  try {
    return parts.map(decodeURIComponent).join("/");
  } catch {
    return "";
  }
}

/** All runs, newest first, with a field to find some by name. */
class RunList {
  constructor() {
    this.rows = new Map();
    this.told = [];
    this.field = element("input", { type: "search", oninput: () => this.filter() });
    this.list = element("ul", { class: "plain runs" });
    this.more = element("p", { class: "dim" });
    this.body = element("div", {}, element("label", { class: "find" }, "Find by name ", this.field), this.list, this.more);
  }

  update(section, { needed, runs: told, left_out: leftOut }) {
    this.body.hidden = needed !== null;
    if (needed !== null) section.querySelector("#runs-what").textContent = needed;
    this.told = told;
    this.more.textContent = leftOut ? `${count(leftOut, "older run")} not shown.` : "";
    const now = told.length || needed !== null ? "" : "There is no run yet: each appears here when it begins.";
    if (section.querySelector(".status").textContent !== now) say(section, now);
    this.field.parentElement.hidden = told.length < 6;
    this.fill();
  }

  fill() {
    const rows = this.told.map((run) => this.row(run));
    this.rows = new Map(rows.map((row, i) => [this.told[i].name, row]));
    const same = rows.length === this.list.children.length && rows.every((row, i) => row === this.list.children[i]);
    if (!same) {
      const focused = document.activeElement;
      this.list.replaceChildren(...rows);
      if (this.list.contains(focused)) focused.focus();
    }
    this.filter();
  }

  row(run) {
    const row = this.rows.get(run.name) ?? element("li", { class: "card" },
      element("p", {}, element("a", { href: address(run.name) }, run.name === "." ? "(the directory itself)" : run.name),
        " ", element("span", {})), element("p", {}), element("p", { class: "warn" }));
    const [title, what, alarms] = row.children;
    title.lastChild.replaceChildren(state(run));
    what.className = run.problem === null ? "dim" : "warn";
    what.textContent = run.problem ?? facts(run);
    alarms.textContent = run.alarms.length ? `Alarm: ${run.alarms.map((name) => ALARMS[name]).join(", ")}` : "";
    alarms.hidden = run.alarms.length === 0;
    return row;
  }

  filter() {
    for (const [name, row] of this.rows) row.hidden = !name.toLowerCase().includes(this.field.value.toLowerCase());
  }

  focus(name) {
    this.rows.get(name)?.querySelector("a").focus();
  }
}
