// Curves over the steps of a run, as SVG. Values are read off by pointer, by touch or by the arrow keys.

import { element } from "./dom.js";

const HEIGHT = 170;
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 10, 8, 22];
const KEYS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };

/** A number in few characters. */
export function short(value) {
  if (value === null) return "no number";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(3)) === 0 ? 0 : size >= 1000 ? Math.round(value) : Number(value.toPrecision(3)));
}

/** Returns about `wanted` round numbers from `low` to `high`. */
export function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  const made = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i += 1) made.push(i * step);
  return made;
}

/** A figure with the curves of one chart; `update` gives it what there is now. */
export class Chart {
  constructor(title) {
    this.title = title;
    this.series = [];
    this.at = null;
    this.badge = element("span", { class: "badge alarm", hidden: "" }, "alarm");
    this.plot = svg("svg", { role: "slider", tabindex: "0", "aria-label": `${title}, by step`, height: HEIGHT });
    this.reading = element("p", { class: "reading" });
    this.figure = element("figure", { class: "card chart" },
      element("figcaption", {}, element("b", {}, title), " ", this.badge), this.plot, this.reading);
    this.plot.addEventListener("keydown", (event) => this.key(event));
    for (const name of ["pointerdown", "pointermove"]) this.plot.addEventListener(name, (event) => this.point(event));
    this.plot.addEventListener("blur", () => this.read(null));
    // A finger leaves at once when it is lifted: what it pointed at stays.
    this.plot.addEventListener("pointerleave", (event) => event.pointerType === "touch" || this.read(null));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** Takes series of {name, steps, values}, and whether an alarm is about one of them. */
  update(series, raised) {
    this.series = series;
    this.badge.hidden = !raised;
    this.figure.classList.toggle("alarmed", raised);
    this.steps = [...new Set(series.flatMap((line) => line.steps))].sort((a, b) => a - b);
    this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (width === 0 || this.series.length === 0) return;
    const values = this.series.flatMap((line) => line.values).filter((value) => value !== null);
    const [low, high] = padded(Math.min(...values), Math.max(...values));
    const [first, last] = [this.steps[0], this.steps.at(-1)];
    this.x = (step) => LEFT + (step - first) / (last - first || 1) * (width - LEFT - RIGHT);
    this.y = (value) => TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.cursor = svg("g", { class: "cursor" });
    const grid = ticks(low, high, 6).map((value) => tick(LEFT, width - RIGHT, this.y(value), short(value)));
    const below = ticks(first, last || 1, width / 90).filter((step) => step >= first && step <= last)
      .map((step) => text(this.x(step), HEIGHT - 5, "middle", short(step)));
    const lines = this.series.map((line, i) => svg("path", { class: `line s${i}`, d: this.path(line) }));
    this.plot.replaceChildren(...grid, ...below, ...lines, this.cursor);
    this.read(this.at);
  }

  /** A line that is broken where a value is no number. */
  path({ steps, values }) {
    let pen = "M";
    return steps.map((step, i) => {
      if (values[i] === null) {
        pen = "M";
        return "";
      }
      const to = `${pen}${this.x(step).toFixed(1)},${this.y(values[i]).toFixed(1)}`;
      pen = "L";
      return to;
    }).join("");
  }

  /** Shows the values at a step, or at the last one. */
  read(step) {
    this.at = step;
    if (!this.cursor) return;
    const shown = step ?? this.steps.at(-1);
    const found = this.series.map((line, i) => [line, i, line.values[line.steps.indexOf(shown)]]);
    const there = found.filter(([, , value]) => value !== undefined);
    const names = there.map(([line, i, value]) => element("span", { class: "series" },
      swatch(i), `${line.name} ${short(value)}`));
    this.reading.replaceChildren(element("span", {}, `step ${short(shown)}`), ...names);
    const attributes = { valuemin: this.steps[0], valuemax: this.steps.at(-1), valuenow: shown,
      valuetext: `step ${short(shown)}: ${there.map(([line, , value]) => `${line.name} ${short(value)}`).join(", ")}` };
    for (const [name, value] of Object.entries(attributes)) this.plot.setAttribute(`aria-${name}`, value);
    const marks = there.filter(([, , value]) => value !== null)
      .map(([, i, value]) => svg("circle", { class: `dot s${i}`, cx: this.x(shown), cy: this.y(value), r: 3.5 }));
    const rule = svg("line", { x1: this.x(shown), x2: this.x(shown), y1: TOP, y2: HEIGHT - BOTTOM });
    this.cursor.replaceChildren(...(step === null ? [] : [rule]), ...marks);
  }

  point(event) {
    if (!this.cursor) return;
    const x = event.clientX - this.plot.getBoundingClientRect().left;
    const gap = (step) => Math.abs(this.x(step) - x);
    this.read(this.steps.reduce((best, step) => (gap(step) < gap(best) ? step : best)));
  }

  key(event) {
    if (event.key === "Escape") this.read(null);
    if (!(event.key in KEYS) || !this.cursor) return;
    event.preventDefault();
    const most = this.steps.length - 1;
    const from = this.at === null ? most : this.steps.indexOf(this.at);
    this.read(this.steps[Math.max(0, Math.min(most, from + KEYS[event.key]))]);
  }
}

function padded(low, high) {
  if (!Number.isFinite(low)) return [0, 1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 0.5;
  return [low - room, high + room];
}

function tick(from, to, y, label) {
  return svg("g", { class: "tick" }, svg("line", { x1: from, x2: to, y1: y, y2: y }), text(from - 6, y + 4, "end", label));
}

function text(x, y, anchor, label) {
  const made = svg("text", { x, y, "text-anchor": anchor });
  made.textContent = label;
  return made;
}

function swatch(i) {
  return svg("svg", { class: "swatch", width: 18, height: 8, "aria-hidden": "true" },
    svg("path", { class: `line s${i}`, d: "M0,4L18,4" }));
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
