// Starts the page: which model is served, whether a key is wanted, and which of its parts is shown.

import { get, KeyWanted, setKey } from "./api.js";
import { arena } from "./arena.js";
import { lens } from "./lens.js";
import { playground } from "./playground.js";
import { runs } from "./runs.js";

const sections = [...document.querySelectorAll("main > section")];
const trouble = document.getElementById("trouble");
const keyForm = document.getElementById("key-form");
const served = { model: null };

function show() {
  // What follows a slash is the section's own.
  const [wanted] = location.hash.slice(1).split("/");
  const shown = sections.find((section) => section.id === wanted) ?? sections[0];
  for (const section of sections) section.hidden = section !== shown;
  shown.dispatchEvent(new Event("shown"));
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${shown.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

/** Learns what is served; each part asks for it before it asks for anything else. */
async function connect() {
  try {
    const models = (await get("v1/models")).data;
    served.model = models[0]?.id ?? "";
    offerModels(models);
    document.getElementById("model").textContent = served.model;
    if (models.length === 0) keepRuns();
    trouble.hidden = true;
    keyForm.hidden = true;
  } catch (error) {
    if (error instanceof KeyWanted) askForKey();
    throw error;
  }
}

/** Without a model, runs are all there is to show. */
function keepRuns() {
  for (const section of sections.filter((section) => section.id !== "runs")) {
    document.querySelector(`nav a[href="#${section.id}"]`).remove();
    section.remove();
  }
  sections.splice(0, sections.length, document.getElementById("runs"));
  show();
}

function askForKey() {
  keyForm.hidden = false;
  document.getElementById("key").focus();
}

async function start() {
  try {
    await connect();
  } catch (error) {
    trouble.textContent = error.message;
    trouble.hidden = false;
  }
}

/** Returns the model's name. The server may have been away, or without a key, when the page was opened. */
async function model() {
  if (served.model === null) await connect();
  return served.model;
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("key");
  setKey(field.value);
  field.value = "";
  start();
});
window.addEventListener("hashchange", show);
const offerModels = playground(document.getElementById("playground"), model);
lens(document.getElementById("lens"), model);
arena(document.getElementById("arena"), model);
runs(document.getElementById("runs"), model);
show();
start();
