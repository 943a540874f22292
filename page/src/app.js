// What the page works with: the scan, the session, and where the user is.

import { Marks } from "./marks.js";
import { chosen, element } from "./panel.js";

export const app = {
  grid: null, image: null, position: [0, 0, 0], axis: 2, active: null, marks: new Marks(), window: [0, 1], hover: null, pen: false,
  get tool() { return chosen("tool"); },
  get radius() { return Number(element("radius-mm").value); },
  get deep() { return element("deep").checked; },
  get limits() { return element("threshold").checked ? [Number(element("low").value), Number(element("high").value)] : null; },
  get view() { return this.planes.view; },
  store: null, planes: null, channel: 0,
  say,
  /** Whether objects may be changed now; says why not. */
  ready() {
    if (!this.store.writer) say("This page reads only. Press “Write here” to work on it.", true);
    else if (this.store.busy) say("Wait until the session is ready.", true);
    else if (!this.active) say("Add an object first.", true);
    else if (this.active.locked) say(`${this.active.name} is locked: unlock it to change it.`, true);
    else if (this.active.hidden) say(`${this.active.name} is hidden: show it to change it.`, true);
    else return true;
    return false;
  },
};

export function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("wrong", wrong);
}
