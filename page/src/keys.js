// Keys, and the page that lists them.

import { element, make } from "./panel.js";

export const HELP = [
  ["Wheel, Page Up, Page Down", "slices of the plane under the pointer, or with the focus"],
  ["Ctrl + wheel, + and −", "zoom"],
  ["Middle button", "move the picture"],
  ["Right button", "window: left and right for the width, up and down for the level"],
  ["Arrow keys on a plane", "move the cross by a voxel; with a pen down, draw"],
  ["Enter on a plane", "use the tool at the cross; put a pen down, or lift it"],
  ["c, w, b, e, f", "cross, window, brush, eraser, fill"],
  ["l, j", "lasso: fill what is inside it; remove the object inside it"],
  ["k", "keep the part of the object that is clicked, remove all others"],
  ["1 to 7", "scribbles and points inside and outside, extreme points, box, diameter"],
  ["0, [ and ]", "the object is not on this slice; its first slice; its last slice"],
  [", and .", "smaller and larger brush"],
  ["d", "brush in two or three dimensions"],
  ["i", "fill between slices"],
  ["p", "segment: a round with the marks"],
  ["Esc", "lift the pen; stop a round"],
  ["n", "go to the suggestion"],
  ["Ctrl Z", "undo: unsent marks first, then what the session did"],
  ["Ctrl Shift Z, Ctrl Y", "redo"],
  ["o", "the next object"],
  ["m, x", "show objects; show the cross"],
  ["r", "whole slices"],
  ["s", "save in the first format"],
  ["?", "this page"],
];

const writing = (target) => target.matches?.("input[type=text], input[type=number], select, textarea");

/** @param actions key → what it does; `undo` and `redo` for the usual ones. */
export function listen(actions, { undo, redo }) {
  element("keys-table").replaceChildren(...HELP.map(([keys, text]) => make("tr", {}, make("td", { textContent: keys }), make("td", { textContent: text }))));
  document.addEventListener("keydown", (event) => {
    if (writing(event.target) || document.querySelector("dialog[open]")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey) {
      if (key === "z" || key === "y") {
        event.preventDefault();
        (key === "y" || event.shiftKey ? redo : undo)();
      }
    } else if (!event.altKey && actions[key]) {
      event.preventDefault();
      actions[key]();
    }
  });
}
