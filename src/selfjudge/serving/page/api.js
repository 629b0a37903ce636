// The server's own endpoints. Every failure is one sentence for people.

const KEY = "selfjudge-key";
const GONE = "The server does not answer: see whether it is still running, and try again.";
const BROKEN_OFF = "The connection ended before the answer was there: try again.";

/** Something that went wrong, told in one sentence. */
export class Failure extends Error {}

/** The server wants a key, or another one. */
export class KeyWanted extends Failure {}

export function setKey(key) {
  sessionStorage.setItem(KEY, key);
}

/** Returns the JSON that GET answers with. */
export async function get(path) {
  return (await ask(path, {})).json();
}

/** Returns what GET answers with, as a file. */
export async function file(path) {
  return (await ask(path, {})).blob();
}

/** Returns the JSON that POST answers with. */
export async function post(path, body) {
  return (await ask(path, sending(body))).json();
}

/** Posts, and calls `told` with each progress comment and each piece of the answer. */
export async function stream(path, body, signal, told) {
  const response = await ask(path, { ...sending({ ...body, stream: true }), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  for (;;) {
    const { done, value } = await piece(reader);
    if (done) throw new Failure(BROKEN_OFF);
    const events = (buffered + value).split("\n\n");
    buffered = events.pop();
    for (const event of events) {
      if (event === "data: [DONE]") return;
      told(parsed(event));
    }
  }
}

async function piece(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(BROKEN_OFF);
  }
}

function parsed(event) {
  const told = JSON.parse(event.replace(/^(data)?: /, ""));
  if (told.error) throw new Failure(told.error.message);
  return told;
}

function sending(body) {
  return { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
}

async function ask(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure(GONE);
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const wait = response.headers.get("Retry-After");
  if (response.status === 429 && wait) return new Failure(`The server is busy: try again in ${wait} s.`);
  if (response.status === 401) return new KeyWanted("The server does not take this key, or wants one: enter it above.");
  try {
    return new Failure((await response.json()).error.message);
  } catch {
    return new Failure(`The server failed with status ${response.status}: try again.`);
  }
}
