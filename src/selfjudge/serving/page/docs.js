// The endpoints of /openapi.json as a page.

import { get } from "./api.js";
import { element } from "./dom.js";

try {
  const spec = await get("openapi.json");
  const operations = Object.entries(spec.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => endpoint(spec, method, path, operation)));
  document.getElementById("endpoints").replaceChildren(...operations);
} catch (error) {
  const trouble = document.getElementById("trouble");
  trouble.textContent = error.message;
  trouble.hidden = false;
}

function endpoint(spec, method, path, operation) {
  const body = operation.requestBody?.content["application/json"]?.schema;
  const reply = operation.responses["200"]?.content?.["application/json"]?.schema;
  const made = element("section", { class: "endpoint" },
    element("h2", {}, element("code", {}, `${method.toUpperCase()} ${path}`)),
    element("p", {}, operation.description ?? operation.summary));
  if (operation.parameters?.length) made.append(parameters(operation.parameters));
  if (body) made.append(element("h3", {}, "Request"), ...tables(spec, body));
  if (reply?.$ref) made.append(element("h3", {}, "Reply"), ...tables(spec, reply));
  return made;
}

function parameters(list) {
  const rows = list.map((p) => [p.name, type(p.schema), p.required, p.description ?? ""]);
  return table("Parameters", rows);
}

/** A schema's fields, and those of the schemas that it is made of. */
function tables(spec, schema) {
  const seen = new Set();
  const waiting = [name(schema.$ref)];
  const made = [];
  while (waiting.length) {
    const at = waiting.shift();
    if (seen.has(at)) continue;
    seen.add(at);
    const found = spec.components.schemas[at];
    const properties = Object.entries(found.properties ?? {});
    const rows = properties.map(([field, p]) => [field, type(p), found.required?.includes(field), p.description ?? ""]);
    made.push(element("details", { ...(seen.size === 1 && { open: "" }) },
      element("summary", {}, at), element("p", { class: "dim" }, found.description ?? ""), table(at, rows)));
    waiting.push(...JSON.stringify(found).matchAll(/"\$ref":"([^"]+)"/g).map((match) => name(match[1])));
  }
  return made;
}

function table(caption, rows) {
  const cells = ([field, kind, required, description]) => element("tr", {},
    element("td", {}, element("code", {}, field), required ? " *" : ""), element("td", {}, kind),
    element("td", {}, description));
  const head = element("tr", {}, ...["field (* required)", "type", "meaning"].map((title) => element("th", {}, title)));
  return element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Fields of ${caption}` },
    element("table", {}, head, ...rows.map(cells)));
}

function type(schema) {
  if (schema.$ref) return name(schema.$ref);
  if (schema.anyOf) return schema.anyOf.map(type).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.prefixItems) return `list of ${schema.prefixItems.map(type).join(", ")}`;
  if (schema.type === "array") return `list of ${type(schema.items ?? {})}`;
  return schema.type ?? "anything";
}

function name(ref) {
  return ref.split("/").pop();
}
