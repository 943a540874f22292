// The panel at the side: objects, marks, engines, channels and files, as lists that follow the session.

import { KINDS } from "./marks.js";

export const element = (id) => document.getElementById(id);
export const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;

export function make(tag, values = {}, ...children) {
  const { label, ...rest } = values, made = Object.assign(document.createElement(tag), rest);
  if (label) made.setAttribute("aria-label", label);
  made.append(...children);
  return made;
}

function swatch(colour) {
  const made = make("span", { className: "swatch" });
  made.style.background = colour;
  return made;
}

const ICONS = {
  shown: "M1 8c3-6 11-6 14 0c-3 6-11 6-14 0M8 6a2 2 0 1 0 0 4a2 2 0 1 0 0-4",
  hidden: "M1 8c3-6 11-6 14 0c-3 6-11 6-14 0M2 14L14 2",
  locked: "M3 7h10v8H3zM5 7V4a3 3 0 0 1 6 0v3",
  bin: "M2 4h12M6 4V2h4v2M4 4l1 10h6l1-10M7 7v4M9 7v4",
  open: "M3 7h10v8H3zM5 7V4a3 3 0 0 1 5.6-1.5",
};

/** A button with a drawing, so that it needs no font of symbols. */
function icon(name, values) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 16 16");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return make("button", { type: "button", ...values }, svg);
}

/** Ask in words; whether the answer is yes. */
export function ask({ title, text, yes, no }) {
  const dialog = element("ask");
  for (const [id, words] of Object.entries({ title, text, yes, no })) element(`ask-${id}`).textContent = words;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/** Millilitres of so many voxels. */
export function volume(voxels, spacing) {
  if (!voxels) return "empty";
  const ml = (voxels * spacing[0] * spacing[1] * spacing[2]) / 1000;
  return `${ml >= 100 ? ml.toFixed(0) : ml.toPrecision(ml >= 0.1 ? 3 : 2)} ml`;
}

/** The objects; `change(number, {…})` and `remove(number)` ask for a change, `choose(number)` for another active one. */
export function showObjects(objects, active, spacing, { change, remove, choose, disabled }) {
  const focused = document.activeElement?.dataset?.key;
  const rows = objects.map(({ number, name, colour, hidden, locked, voxels }) => {
    const radio = make("input", { type: "radio", name: "object", value: number, checked: number === active, label: `Work on ${name}` });
    const paint = make("input", { type: "color", value: colour, disabled, label: `Colour of ${name}` });
    const text = make("input", { type: "text", value: name, disabled, maxLength: 64, title: name, label: `Name of ${name}` });
    const hide = icon(hidden ? "hidden" : "shown", { title: hidden ? "Show" : "Hide: it is not changed while it is hidden", disabled, label: `Hide ${name}` });
    const lock = icon(locked ? "locked" : "open", { title: locked ? "Unlock" : "Lock: no tool and no round changes it", disabled, label: `Lock ${name}` });
    const bin = icon("bin", { title: "Remove", disabled, label: `Remove ${name}` });
    hide.setAttribute("aria-pressed", hidden);
    lock.setAttribute("aria-pressed", locked);
    radio.addEventListener("change", () => choose(number));
    paint.addEventListener("change", () => change(number, { colour: paint.value }));
    text.addEventListener("change", () => (text.value.trim() ? change(number, { name: text.value.trim() }) : (text.value = name)));
    hide.addEventListener("click", () => change(number, { hidden: !hidden }));
    lock.addEventListener("click", () => change(number, { locked: !locked }));
    bin.addEventListener("click", () => remove(number));
    for (const [key, one] of Object.entries({ radio, paint, text, hide, lock, bin })) one.dataset.key = `${key}-${number}`;
    return make("div", { className: "object" }, radio, paint, text, make("output", { textContent: volume(voxels, spacing) }), hide, lock, bin);
  });
  element("objects").replaceChildren(...rows);
  // A list that is made anew must not lose the focus of someone who uses the keyboard.
  if (focused) document.querySelector(`[data-key="${focused}"]`)?.focus();
}

/** Marks that are not sent; `go(mark)` shows one, `remove(id)` removes it. */
export function showMarks(items, nameOf, colours, { go, remove }) {
  element("marks").replaceChildren(...items.map((mark) => {
    const { id, object, axis, kind, voxels } = mark, along = "xyz"[axis];
    const where = kind === "spans" ? `${along} ${voxels[0]} to ${voxels[1]}` : `${along} ${kind === "empty" ? voxels.join(", ") : voxels[0][axis]}`;
    const text = `${nameOf(object)}: ${KINDS[kind]}, ${where}`;
    const show = make("button", { type: "button", className: "go", title: "Show" }, text);
    const drop = make("button", { type: "button", className: "remove", textContent: "✕", title: "Remove", label: `Remove ${text}` });
    show.addEventListener("click", () => go(mark));
    drop.addEventListener("click", () => remove(id));
    return make("li", {}, swatch(colours.get(object) ?? "#ffffff"), show, drop);
  }));
}

/** Options of a select, kept where they are the same. */
export function fill(select, options, value) {
  const same = options.map((one) => one.join()).join(";");
  if (select.dataset.options !== same) {
    select.replaceChildren(...options.map(([key, text, title]) => make("option", { value: key, textContent: text, title: title ?? "" })));
    select.dataset.options = same;
    select.value = value;
  }
}
