// What the page shows of the session, and how the user moves through the scan.

import { app, say } from "./app.js";
import { changeObject, removeObject, save } from "./changes.js";
import { clamp, flat } from "./geometry.js";
import { keep } from "./kept.js";
import { element, fill, make, showMarks, showObjects } from "./panel.js";
import * as server from "./server.js";
import { drawStrip } from "./strip.js";

const SAVES = { nifti: "NIfTI", slicer: "3D Slicer", "dicom-seg": "DICOM-SEG", rtstruct: "RTSTRUCT" };
// The session's message that was said last.
let told = "";

const colours = () => new Map(app.store.facts.objects.map((one) => [one.number, one.colour]));

export function showObjectsInPlanes() {
  app.planes.view.setObjects(app.store.facts.objects, element("labels").checked ? Number(element("opacity").value) / 100 : 0);
}

export async function showLabels(slices) {
  if (!app.planes) return;
  if (slices) app.planes.view.labelsChanged(slices);
  else {
    await app.planes.view.setVolumes(app.image, app.store.labels);
    app.planes.view.show(app.position);
    showObjectsInPlanes();
  }
}

/** Marks of the session, as the page keeps its own. */
function sentMarks() {
  if (!element("sent").checked) return [];
  return Object.entries(app.store.facts.marks ?? {}).flatMap(([object, parts]) => parts.flatMap(({ axis, ...kinds }) =>
    Object.entries(kinds).flatMap(([kind, values]) => {
      const several = kind === "boxes" || kind === "lines" ? values : [values];
      return several.map((voxels) => ({ object: Number(object), axis, kind, voxels, sent: true }));
    })));
}

export function overlay(axis) {
  const brush = (app.tool === "brush" || app.tool === "eraser") && app.hover?.axis === axis;
  return {
    position: app.position,
    cross: element("crosses").checked,
    pen: app.pen,
    window: axis === app.axis ? app.window : null,
    marks: app.store.facts ? [...sentMarks(), ...app.marks.items] : [],
    colours: app.store.facts ? colours() : new Map(),
    outline: app.tools.outline?.axis === axis ? app.tools.outline.places : null,
    brush: brush ? { canvas: app.hover.canvas, radius: app.radius } : null,
  };
}

export function showPlace(voxel = app.position) {
  const { facts } = app.store, index = flat(app.grid.shape, voxel), value = app.image[index];
  const mm = app.grid.toMm(voxel).map((v) => v.toFixed(1)).join(", ");
  const number = app.store.labels[index], name = number ? app.store.object(number)?.name ?? `object ${number}` : "";
  const shown = Number.isInteger(value) ? value : Number(value.toPrecision(6));
  element("value").textContent = `voxel ${voxel.join(", ")}   ${mm} mm RAS   ${shown}${facts.modality === "CT" ? " HU" : ""}${name ? `   ${name}` : ""}`;
}

export function showStrip() {
  const { facts } = app.store, suggestion = facts.suggestion;
  const mine = app.active && app.axis === facts.axis;
  drawStrip(element("strip"), {
    count: app.grid.shape[app.axis],
    quality: mine ? facts.quality[app.active.number] : null,
    hinted: mine ? facts.hinted : [],
    suggestion: suggestion && app.axis === facts.axis ? suggestion.slice : null,
    here: app.position[app.axis],
  });
}

/** The session has other facts, or the page may do other things. */
export function refresh() {
  const { facts, writer, busy } = app.store;
  if (!app.grid) return;
  app.active = app.store.object(app.active?.number) ?? facts.objects[0] ?? null;
  if (app.marks.settle(new Set(facts.objects.map((one) => one.number)))) showUnsent();
  keep(facts, app.marks.all);
  element("scan").textContent = facts.scan;
  element("scan").title = facts.scan;
  element("reading").hidden = writer;
  document.body.classList.toggle("busy", busy);
  showObjects(facts.objects, app.active?.number, app.grid.spacing, { change: changeObject, remove: removeObject, choose, disabled: !writer || busy });
  fill(element("engine"), facts.engines.map((one) => [one.name, one.title, one.does]), facts.engine);
  const engine = element("engine").value;
  element("engine").title = facts.engines.find((one) => one.name === engine)?.does ?? "";
  const saves = facts.saves.join();
  if (element("saves").dataset.kinds !== saves) {
    element("saves").dataset.kinds = saves;
    element("saves").replaceChildren(...facts.saves.map((kind) => {
      const button = make("button", { type: "button", textContent: `Save ${SAVES[kind] ?? kind}`, disabled: true });
      button.addEventListener("click", () => save(kind));
      return button;
    }));
  }
  const suggestion = facts.suggestion;
  element("suggestion").textContent = suggestion ? `${app.store.object(suggestion.object)?.name ?? ""}, ${"xyz"[facts.axis]} ${suggestion.slice}: ${suggestion.reason}` : "";
  element("jump").disabled = !suggestion;
  const idle = writer && !busy;
  element("round").disabled = !idle || !(app.marks.items.length || engine === "automatic");
  element("clear").disabled = !app.marks.items.length;
  element("undo").disabled = !app.marks.canUndo && !(idle && facts.can_undo);
  element("redo").disabled = !app.marks.canRedo && !(idle && facts.can_redo);
  element("undo").title = app.marks.canUndo ? "the last mark" : facts.undo_text ?? "";
  element("redo").title = app.marks.canRedo ? "the mark" : facts.redo_text ?? "";
  for (const button of element("saves").children) button.disabled = !idle;
  for (const id of ["between", "islands", "file"]) element(id).disabled = !idle;
  for (const one of element("add").elements) one.disabled = !idle;
  showObjectsInPlanes();
  showStrip();
  showPlace();
  app.planes.redraw();
  if (facts.message && facts.message !== told) say(facts.message, true);
  told = facts.message;
}

export function marked() {
  showUnsent();
  refresh();
}

function showUnsent() {
  showMarks(app.marks.items, (number) => app.store.object(number)?.name ?? `object ${number}`, colours(), {
    go: ({ axis, kind, voxels }) => {
      const place = app.position.slice();
      place[axis] = kind === "empty" || kind === "spans" ? voxels[0] : voxels[0][axis];
      go(place);
    },
    remove: (id) => { app.marks.remove(id); marked(); },
  });
}

// Moving ------------------------------------------------------------------------------------------------------

export function go(voxel) {
  const before = app.position;
  app.position = voxel.map((v, axis) => clamp(v, 0, app.grid.shape[axis] - 1));
  app.planes.view.show(app.position, [0, 1, 2].filter((axis) => app.position[axis] !== before[axis]));
  moved();
}

function moved() {
  element("slice").value = app.position[app.axis];
  element("place").textContent = `${"xyz"[app.axis]} ${app.position[app.axis]} of ${app.grid.shape[app.axis] - 1}`;
  showStrip();
  showPlace();
  app.planes.redraw();
}

export function step(axis, by) {
  const place = app.position.slice();
  place[axis] += by;
  go(place);
}

export function along(axis) {
  app.axis = axis;
  element("axis").value = axis;
  element("slice").max = app.grid.shape[axis] - 1;
  moved();
}

export function setWindow(low, high) {
  app.window = [low, high];
  element("level").value = Number(((low + high) / 2).toPrecision(5));
  element("width").value = Number((high - low).toPrecision(5));
  app.planes.view.setWindow(low, high);
  app.planes.redraw();
}

export function pull(dx, dy) {
  const { low, high } = app.store.facts.channels[app.channel], unit = Math.max(high - low, 1e-6) / 300;
  const level = (app.window[0] + app.window[1]) / 2 + dy * unit, width = Math.max(unit, app.window[1] - app.window[0] + dx * unit);
  setWindow(level - width / 2, level + width / 2);
}

export async function showChannel(number) {
  app.channel = number;
  const { name, low, high } = app.store.facts.channels[number];
  app.image = await server.image(number, (share) => say(`Loading ${name || "the scan"}: ${Math.round(100 * share)} %`));
  setWindow(low, high > low ? high : low + 1);
  element("low").value = Number(low.toPrecision(5));
  element("high").value = Number(high.toPrecision(5));
  await showLabels(null);
  showPlace();
  say("");
}

/** Work on another object. */
export function choose(number) {
  app.active = app.store.object(number);
  refresh();
}
