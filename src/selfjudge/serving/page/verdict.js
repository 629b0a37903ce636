// How a verdict is shown: the probabilities of both orders, and whether they agree.

import { digits, element } from "./dom.js";

/** Returns what each response gets in each order. In the order BA the label A means the second response. */
export function orders(p) {
  return [
    { first: "A", a: p.AB.A, b: p.AB.B },
    { first: "B", a: p.BA.B, b: p.BA.A },
  ];
}

/** Both orders as bars with their numbers; `names` are what the two responses are called. */
export function bars(p, names) {
  return element("div", { class: "orders" }, ...orders(p).map((order) => bar(order, names)));
}

function bar({ first, a, b }, names) {
  const drawn = element("span", { class: "bar", "aria-hidden": "true" });
  for (const [side, share] of [["a", a], ["b", b]]) {
    const part = element("span", { class: side });
    part.style.width = `${100 * share}%`;
    drawn.append(part);
  }
  const label = `${first === "A" ? names[0] : names[1]} first`;
  const numbers = `${names[0]} ${digits(a)}, ${names[1]} ${digits(b)}`;
  return element("div", { class: "order" }, element("span", {}, label), drawn, element("span", {}, numbers));
}

/** "strength 0.90, orders agree": the strength is that of the response that is ahead. */
export function summary(verdict) {
  if (verdict.preferred === "tie") return "tie";
  const strength = digits(verdict.preferred === "A" ? verdict.strength : 1 - verdict.strength);
  return `strength ${strength}, orders ${verdict.agree ? "agree" : "disagree"}`;
}
