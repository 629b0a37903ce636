// Elements made in code. Whatever a model or a user wrote goes through here as text and never as markup.

/** Makes an element; strings among the children become text nodes, and null ones are left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A probability with two digits. */
export function digits(value) {
  return value.toFixed(2);
}

/** "1 match", "2 matches". */
export function count(n, one, many = `${one}s`) {
  return `${n} ${n === 1 ? one : many}`;
}

/** Runs the work of a form: its button waits meanwhile, and what goes wrong is shown as a sentence. */
export async function busy(section, work) {
  const error = section.querySelector(".error");
  const button = section.querySelector("button.main");
  error.hidden = true;
  button.disabled = true;
  section.setAttribute("aria-busy", "true");
  try {
    await work();
  } catch (failure) {
    say(section, "");
    error.textContent = failure.message;
    error.hidden = false;
  } finally {
    button.disabled = false;
    section.removeAttribute("aria-busy");
  }
}

/** Tells how far the work of a section is. */
export function say(section, text) {
  section.querySelector(".status").textContent = text;
}

/** Sends a form with Ctrl+Enter (or Cmd+Enter) from any of its fields, and by its button. */
export function onSend(form, send) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit(form.querySelector("button.main"));
    }
  });
}
