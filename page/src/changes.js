// What the user does: with tools by keyboard, with the session, and with rounds.

import { app, say } from "./app.js";
import { ask, element, volume } from "./panel.js";
import * as server from "./server.js";
import { along, choose, go, marked, step } from "./shown.js";

/** A round is running. */
let round = false;

/** Stop a round that is running; returns whether there was one. */
export function stop() {
  if (!round) return false;
  element("stop").disabled = true;
  say("Stopping…");
  server.stop();
  return true;
}

export function useKey(axis, event) {
  const plane = app.grid.planes[axis], arrows = { ArrowLeft: [plane.right, -1], ArrowRight: [plane.right, 1], ArrowUp: [plane.down, -1], ArrowDown: [plane.down, 1] };
  const arrow = arrows[event.key];
  const spot = () => app.planes.spotAt(axis, app.planes.view.canvasAt(axis, app.position.map((v, a) => v * app.grid.spacing[a])));
  if (arrow) {
    const place = app.position.slice();
    place[arrow[0].axis] += arrow[0].sign * arrow[1];
    go(place);
    if (app.pen) app.tools.drag(spot(), [0, 0]);
  } else if (event.key === "PageUp" || event.key === "PageDown") {
    if (!app.pen) step(axis, event.key === "PageUp" ? -1 : 1);
  } else if (event.key === "Enter") {
    if (app.pen) lift();
    else {
      app.tools.press(spot());
      app.pen = app.tools.drawing && app.tools.held(app.tool) && app.tool !== "window";
      if (!app.pen) app.tools.release();
    }
    app.planes.redraw();
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

export function lift() {
  if (app.pen) app.tools.release();
  app.pen = false;
  app.planes.redraw();
}

export const change = (path, body) => app.store.change((version) => server.change(path, version, body));

export const changeObject = (number, values) => change("object", { number, ...values });

export async function addObject(name) {
  const known = new Set(app.store.facts.objects.map((one) => one.number));
  if (!await change("object", { name })) return false;
  const made = app.store.facts.objects.find((one) => !known.has(one.number));
  if (made) {
    app.marks.forget(made.number);
    choose(made.number);
  }
  return true;
}

export async function removeObject(number) {
  const { name, value, voxels, locked, hidden } = app.store.object(number);
  if (locked) return say(`${name} is locked: unlock it to remove it.`, true);
  if (hidden) return say(`${name} is hidden: show it to remove it.`, true);
  const yes = await ask({
    title: `Remove ${name}?`,
    text: `${voxels ? `Its ${volume(voxels, app.grid.spacing)} and all its marks go` : "It is empty; its marks go"}. The other objects stay as they are, with their numbers; in this session no other object gets the number ${value ?? number} in saved files.\n\nUndo (Ctrl Z) brings it back.`,
    yes: `Remove ${name}`, no: "Keep it",
  });
  if (yes && await change("remove", { number })) say(`${name} is removed. Undo brings it back.`);
  return undefined;
}

export async function undo() {
  lift();
  if (app.marks.canUndo) { app.marks.undo(); marked(); say("Mark undone."); return; }
  const text = app.store.facts.undo_text;
  if (await change("undo")) say(`Undone${text ? `: ${text}` : ""}.`);
}

export async function redo() {
  lift();
  if (app.marks.canRedo) { app.marks.redo(); marked(); say("Mark redone."); return; }
  const text = app.store.facts.redo_text;
  if (await change("redo")) say(`Redone${text ? `: ${text}` : ""}.`);
}

export async function segment() {
  if (element("round").disabled) return;
  lift();
  const begun = performance.now();
  round = true;
  Object.assign(element("progress"), { hidden: false, value: 0 });
  Object.assign(element("stop"), { hidden: false, disabled: false });
  say("Segmenting…");
  follow();
  const answer = await change("round", { engine: element("engine").value, axis: app.axis, marks: app.marks.forRound() });
  round = false;
  element("progress").hidden = element("stop").hidden = true;
  if (!answer) return;
  if (answer.stopped) { say("Stopped: nothing was changed, and your marks are kept."); return; }
  app.marks.sent();
  marked();
  say([`Done in ${((performance.now() - begun) / 1000).toFixed(1)} s.`, app.store.facts.message].filter(Boolean).join(" "), Boolean(app.store.facts.message));
}

export async function save(kind) {
  say("Saving…");
  const answer = await change("save", { kind });
  if (answer) say(`Saved as ${answer.saved.join(", ")}.`);
}

export async function load() {
  const [file] = element("file").files;
  if (!file) return;
  let refused = "";
  const read = (resample) => {
    refused = "";
    return app.store.change((version) => server.load(version, file, resample), ({ why, message }) => {
      if (why === "grid") refused = message;
      return why === "grid";
    });
  };
  say(`Reading ${file.name}…`);
  let answer = await read(false);
  if (refused) {
    const yes = await ask({
      title: `${file.name} lies on another grid`,
      text: `${refused}.\n\nWhen it is resampled, each voxel of the scan takes the value of the nearest voxel of the file. Borders may shift by half a voxel, and small parts may be lost; the volumes before and after will be told.`,
      yes: "Resample it onto the scan", no: "Do not load it",
    });
    say(yes ? `Resampling ${file.name}…` : `${file.name} was not loaded; nothing was changed.`);
    if (yes) answer = await read(true);
  }
  if (answer) say(app.store.facts.message || `${file.name} is shown.`, Boolean(app.store.facts.message));
  element("file").value = "";
}

/** Remove parts of the chosen object: all but the one at a voxel (`keep`), or small ones (`below_ml`). */
export async function islands(which) {
  if (!app.ready()) return;
  const { name, number } = app.active, answer = await change("islands", { number, ...which });
  if (!answer) return;
  const { removed, left, ml } = answer.islands, parts = (count) => `${count} ${count === 1 ? "part" : "parts"}`;
  const size = `${Number(ml.toPrecision(3))} ml`;
  if (removed) say(`${name}: ${parts(removed)} (${size}) removed, ${parts(left)} left.`);
  else say(which.keep ? `${name} has one part only: nothing was changed.` : `${name} has no part smaller than ${which.below_ml} ml: nothing was changed.`);
}

export async function between() {
  if (!app.ready()) return;
  const before = app.active.voxels, { name, number } = app.active;
  if (await change("between", { number, axis: app.axis })) say(`${name}: ${app.store.object(number).voxels - before} voxels filled between slices.`);
}

export function mark(kind, end) {
  if (!app.ready()) return;
  const slice = app.position[app.axis], object = app.active.number;
  if (kind === "empty") app.marks.add({ object, axis: app.axis, kind, voxels: [slice] });
  else app.marks.span(object, app.axis, end, slice, app.grid.shape[app.axis]);
  marked();
}

export function jump() {
  const { suggestion, axis } = app.store.facts;
  if (!suggestion) return;
  const place = app.position.slice();
  place[axis] = suggestion.slice;
  choose(suggestion.object);
  along(axis);
  go(place);
}

/** Ask how far the round is, whether this page still writes, and whether others changed anything. */
export async function follow() {
  try {
    const now = await server.progress();
    if (round) {
      if (now.running) element("progress").value = now.share;
    } else await app.store.follow(now);
    element("reading-text").textContent = now.free ? "This page reads only. No other page is open now." : "Another page writes to this session; this page reads only.";
  } catch { /* strokes and changes say when the server is gone */ }
  clearTimeout(follow.next);
  follow.next = setTimeout(follow, round ? 250 : 2000);
}
