// The page of a session: joins the planes, the tools, the panel and the server.

import { clamp, flat, gridOf } from "./geometry.js";
import { listen } from "./keys.js";
import { Marks } from "./marks.js";
import { chosen, element, fill, make, showMarks, showObjects } from "./panel.js";
import { Planes } from "./planes.js";
import * as server from "./server.js";
import { Store } from "./store.js";
import { drawStrip } from "./strip.js";
import { TOOLS, Tools } from "./tools.js";

// Level and width in HU, as radiology uses them.
const PRESETS = { Lung: [-600, 1500], "Soft tissue": [40, 400], Bone: [400, 1800], Brain: [40, 80], Mediastinum: [50, 350], Liver: [60, 160] };

const app = {
  grid: null, image: null, position: [0, 0, 0], axis: 2, active: null, marks: new Marks(), window: [0, 1], hover: null, pen: false,
  get tool() { return chosen("tool"); },
  get radius() { return Number(element("radius-mm").value); },
  get deep() { return element("deep").checked; },
  get limits() { return element("threshold").checked ? [Number(element("low").value), Number(element("high").value)] : null; },
  get view() { return planes.view; },
  say,
  marked,
  go,
  pull,
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
const tools = new Tools(app);
const store = (app.store = new Store({ facts: refresh, labels: showLabels, say }));
let planes = null, told = "", channel = 0, round = false;

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("wrong", wrong);
}

// What is shown -----------------------------------------------------------------------------------------------

const colours = () => new Map(store.facts.objects.map((one) => [one.number, one.colour]));

function showObjectsInPlanes() {
  planes.view.setObjects(store.facts.objects, element("labels").checked ? Number(element("opacity").value) / 100 : 0);
}

async function showLabels(slices) {
  if (!planes) return;
  if (slices) planes.view.labelsChanged(slices);
  else {
    await planes.view.setVolumes(app.image, store.labels);
    planes.view.show(app.position);
    showObjectsInPlanes();
  }
}

/** Marks of the session, as the page keeps its own. */
function sentMarks() {
  if (!element("sent").checked) return [];
  return Object.entries(store.facts.marks ?? {}).flatMap(([object, parts]) => parts.flatMap(({ axis, ...kinds }) =>
    Object.entries(kinds).flatMap(([kind, values]) => {
      const several = kind === "boxes" || kind === "lines" ? values : [values];
      return several.map((voxels) => ({ object: Number(object), axis, kind, voxels, sent: true }));
    })));
}

function overlay(axis) {
  const brush = (app.tool === "brush" || app.tool === "eraser") && app.hover?.axis === axis;
  return {
    position: app.position,
    cross: element("crosses").checked,
    pen: app.pen,
    marks: store.facts ? [...sentMarks(), ...app.marks.items] : [],
    colours: store.facts ? colours() : new Map(),
    brush: brush ? { canvas: app.hover.canvas, radius: app.radius } : null,
  };
}

function showPlace(voxel = app.position) {
  const { facts } = store, index = flat(app.grid.shape, voxel), value = app.image[index];
  const mm = app.grid.toMm(voxel).map((v) => v.toFixed(1)).join(", ");
  const number = store.labels[index], name = number ? store.object(number)?.name ?? `object ${number}` : "";
  const shown = Number.isInteger(value) ? value : Number(value.toPrecision(6));
  element("value").textContent = `voxel ${voxel.join(", ")}   ${mm} mm RAS   ${shown}${facts.modality === "CT" ? " HU" : ""}${name ? `   ${name}` : ""}`;
}

function showStrip() {
  const { facts } = store, suggestion = facts.suggestion;
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
function refresh() {
  const { facts, writer, busy } = store;
  if (!app.grid) return;
  app.active = store.object(app.active?.number) ?? facts.objects[0] ?? null;
  element("scan").textContent = facts.scan;
  element("scan").title = facts.scan;
  element("reading").hidden = writer;
  document.body.classList.toggle("busy", busy);
  showObjects(facts.objects, app.active?.number, app.grid.spacing, { change: changeObject, choose, disabled: !writer || busy });
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
  element("suggestion").textContent = suggestion ? `${store.object(suggestion.object)?.name ?? ""}, ${"xyz"[facts.axis]} ${suggestion.slice}: ${suggestion.reason}` : "";
  element("jump").disabled = !suggestion;
  const idle = writer && !busy;
  element("round").disabled = !idle || !(app.marks.items.length || engine === "automatic");
  element("clear").disabled = !app.marks.items.length;
  element("undo").disabled = !app.marks.canUndo && !(idle && facts.can_undo);
  element("redo").disabled = !app.marks.canRedo && !(idle && facts.can_redo);
  element("undo").title = app.marks.canUndo ? "the last mark" : facts.undo_text ?? "";
  element("redo").title = app.marks.canRedo ? "the mark" : facts.redo_text ?? "";
  for (const button of element("saves").children) button.disabled = !idle;
  for (const id of ["between", "file"]) element(id).disabled = !idle;
  for (const one of element("add").elements) one.disabled = !idle;
  showObjectsInPlanes();
  showStrip();
  showPlace();
  planes.redraw();
  if (facts.message && facts.message !== told) say(facts.message, true);
  told = facts.message;
}

function marked() {
  showMarks(app.marks.items, (number) => store.object(number)?.name ?? `object ${number}`, colours(), {
    go: ({ axis, kind, voxels }) => {
      const place = app.position.slice();
      place[axis] = kind === "empty" || kind === "spans" ? voxels[0] : voxels[0][axis];
      go(place);
    },
    remove: (id) => { app.marks.remove(id); marked(); },
  });
  refresh();
}

// Moving ------------------------------------------------------------------------------------------------------

function go(voxel) {
  const before = app.position;
  app.position = voxel.map((v, axis) => clamp(v, 0, app.grid.shape[axis] - 1));
  planes.view.show(app.position, [0, 1, 2].filter((axis) => app.position[axis] !== before[axis]));
  moved();
}

function moved() {
  element("slice").value = app.position[app.axis];
  element("place").textContent = `${"xyz"[app.axis]} ${app.position[app.axis]} of ${app.grid.shape[app.axis] - 1}`;
  showStrip();
  showPlace();
  planes.redraw();
}

function step(axis, by) {
  const place = app.position.slice();
  place[axis] += by;
  go(place);
}

function along(axis) {
  app.axis = axis;
  element("axis").value = axis;
  element("slice").max = app.grid.shape[axis] - 1;
  moved();
}

function setWindow(low, high) {
  app.window = [low, high];
  element("level").value = Number(((low + high) / 2).toPrecision(5));
  element("width").value = Number((high - low).toPrecision(5));
  planes.view.setWindow(low, high);
}

function pull(dx, dy) {
  const { low, high } = store.facts.channels[channel], unit = Math.max(high - low, 1e-6) / 300;
  const level = (app.window[0] + app.window[1]) / 2 + dy * unit, width = Math.max(unit, app.window[1] - app.window[0] + dx * unit);
  setWindow(level - width / 2, level + width / 2);
}

function useKey(axis, event) {
  const plane = app.grid.planes[axis], arrows = { ArrowLeft: [plane.right, -1], ArrowRight: [plane.right, 1], ArrowUp: [plane.down, -1], ArrowDown: [plane.down, 1] };
  const arrow = arrows[event.key];
  const spot = () => planes.spotAt(axis, planes.view.canvasAt(axis, app.position.map((v, a) => v * app.grid.spacing[a])));
  if (arrow) {
    const place = app.position.slice();
    place[arrow[0].axis] += arrow[0].sign * arrow[1];
    go(place);
    if (app.pen) tools.drag(spot(), [0, 0]);
  } else if (event.key === "PageUp" || event.key === "PageDown") {
    if (!app.pen) step(axis, event.key === "PageUp" ? -1 : 1);
  } else if (event.key === "Enter") {
    if (app.pen) lift();
    else {
      tools.press(spot());
      app.pen = tools.drawing && tools.held(app.tool) && app.tool !== "window";
      if (!app.pen) tools.release();
    }
    planes.redraw();
  } else return;
  event.preventDefault();
  event.stopPropagation();
}

function lift() {
  if (app.pen) tools.release();
  app.pen = false;
  planes.redraw();
}

// Changing ----------------------------------------------------------------------------------------------------

const SAVES = { nifti: "NIfTI", slicer: "3D Slicer", "dicom-seg": "DICOM-SEG", rtstruct: "RTSTRUCT" };

const change = (path, body) => store.change((version) => server.change(path, version, body));

const changeObject = (number, values) => change("object", { number, ...values });

function choose(number) {
  app.active = store.object(number);
  refresh();
}

async function undo() {
  lift();
  if (app.marks.canUndo) { app.marks.undo(); marked(); say("Mark undone."); return; }
  const text = store.facts.undo_text;
  if (await change("undo")) say(`Undone${text ? `: ${text}` : ""}.`);
}

async function redo() {
  lift();
  if (app.marks.canRedo) { app.marks.redo(); marked(); say("Mark redone."); return; }
  const text = store.facts.redo_text;
  if (await change("redo")) say(`Redone${text ? `: ${text}` : ""}.`);
}

async function segment() {
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
  say([`Done in ${((performance.now() - begun) / 1000).toFixed(1)} s.`, store.facts.message].filter(Boolean).join(" "), Boolean(store.facts.message));
}

async function save(kind) {
  say("Saving…");
  const answer = await change("save", { kind });
  if (answer) say(`Saved as ${answer.saved.join(", ")}.`);
}

async function load() {
  const [file] = element("file").files;
  if (!file) return;
  say(`Reading ${file.name}…`);
  if (await store.change((version) => server.load(version, file))) say(store.facts.message || `${file.name} is shown.`, Boolean(store.facts.message));
  element("file").value = "";
}

async function between() {
  if (!app.ready()) return;
  const before = app.active.voxels, { name, number } = app.active;
  if (await change("between", { number, axis: app.axis })) say(`${name}: ${store.object(number).voxels - before} voxels filled between slices.`);
}

function mark(kind, end) {
  if (!app.ready()) return;
  const slice = app.position[app.axis], object = app.active.number;
  if (kind === "empty") app.marks.add({ object, axis: app.axis, kind, voxels: [slice] });
  else app.marks.span(object, app.axis, end, slice, app.grid.shape[app.axis]);
  marked();
}

function jump() {
  const { suggestion, axis } = store.facts;
  if (!suggestion) return;
  const place = app.position.slice();
  place[axis] = suggestion.slice;
  choose(suggestion.object);
  along(axis);
  go(place);
}

async function showChannel(number) {
  channel = number;
  const { name, low, high } = store.facts.channels[number];
  app.image = await server.image(number, (share) => say(`Loading ${name || "the scan"}: ${Math.round(100 * share)} %`));
  setWindow(low, high > low ? high : low + 1);
  Object.assign(element("low"), { value: low });
  Object.assign(element("high"), { value: high });
  await showLabels(null);
  showPlace();
  say("");
}

/** Ask how far the round is, whether this page still writes, and whether others changed anything. */
async function follow() {
  try {
    const now = await server.progress();
    if (round) {
      if (now.running) element("progress").value = now.share;
    } else await store.follow(now);
    element("reading-text").textContent = now.free ? "This page reads only. No other page is open now." : "Another page writes to this session; this page reads only.";
  } catch { /* strokes and changes say when the server is gone */ }
  clearTimeout(follow.next);
  follow.next = setTimeout(follow, round ? 250 : 2000);
}

// Start -------------------------------------------------------------------------------------------------------

function radius(mm) {
  element("radius").value = mm;
  element("radius-mm").value = mm;
  planes.redraw();
}

function toggle(id) { element(id).click(); }

const choose_tool = (name) => () => { lift(); document.querySelector(`input[name=tool][value=${name}]`).click(); };

function connect() {
  const clicks = {
    undo, redo, round: segment, clear: () => { app.marks.clear(); marked(); }, jump, between, empty: () => mark("empty"),
    first: () => mark("spans", "first"), last: () => mark("spans", "last"), fit: () => planes.fit(),
    help: () => element("keys").showModal(),
    stop: () => { element("stop").disabled = true; say("Stopping…"); server.stop(); },
    take: async () => { await store.takeOver(); say("This page writes now."); refresh(); },
  };
  for (const [id, action] of Object.entries(clicks)) element(id).addEventListener("click", action);
  const inputs = {
    radius: () => radius(Number(element("radius").value)), "radius-mm": () => radius(Number(element("radius-mm").value)),
    opacity: showObjectsInPlanes, labels: showObjectsInPlanes, crosses: () => planes.redraw(), sent: () => planes.redraw(),
    smooth: () => planes.view.setSmooth(element("smooth").checked), engine: refresh, file: load,
    slice: () => step(app.axis, Number(element("slice").value) - app.position[app.axis]),
    axis: () => along(Number(element("axis").value)), channel: () => showChannel(Number(element("channel").value)),
  };
  for (const [id, action] of Object.entries(inputs)) element(id).addEventListener(id === "file" ? "change" : "input", action);
  for (const id of ["level", "width"]) element(id).addEventListener("change", () => {
    const [level, width] = [Number(element("level").value), Math.max(Number(element("width").value), 1e-6)];
    setWindow(level - width / 2, level + width / 2);
  });
  element("tool").addEventListener("change", () => { lift(); planes.redraw(); });
  element("add").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = element("name").value.trim(), known = new Set(store.facts.objects.map((one) => one.number));
    if (!name || !(await change("object", { name }))) return;
    element("name").value = "";
    const made = store.facts.objects.find((one) => !known.has(one.number));
    if (made) choose(made.number);
  });
  element("strip").addEventListener("click", (event) => {
    const box = element("strip").getBoundingClientRect(), count = app.grid.shape[app.axis];
    step(app.axis, Math.floor(((event.clientX - box.left) / box.width) * count) - app.position[app.axis]);
  });
  window.addEventListener("resize", showStrip);
  window.addEventListener("beforeunload", (event) => { if (store.unsaved || app.marks.items.length) event.preventDefault(); });
  window.addEventListener("pagehide", () => server.leave());

  const focused = () => Number(document.activeElement?.dataset?.axis ?? app.axis);
  const keys = {
    c: choose_tool("cross"), w: choose_tool("window"), b: choose_tool("brush"), e: choose_tool("eraser"), f: choose_tool("fill"),
    0: () => mark("empty"), "[": () => mark("spans", "first"), "]": () => mark("spans", "last"), d: () => toggle("deep"), i: between,
    ",": () => radius(Math.max(0.5, app.radius - 0.5)), ".": () => radius(Math.min(200, app.radius + 0.5)),
    "+": () => planes.zoomAtCross(focused(), 1.25), "=": () => planes.zoomAtCross(focused(), 1.25), "-": () => planes.zoomAtCross(focused(), 0.8),
    p: segment, n: jump, m: () => toggle("labels"), x: () => toggle("crosses"), r: () => planes.fit(), "?": clicks.help,
    s: () => store.facts.saves.length && store.writer && save(store.facts.saves[0]),
    o: () => {
      const at = store.facts.objects.findIndex((one) => one.number === app.active?.number);
      if (at >= 0) choose(store.facts.objects[(at + 1) % store.facts.objects.length].number);
    },
    PageUp: () => step(app.axis, -1), PageDown: () => step(app.axis, 1),
    Escape: () => { if (round) clicks.stop(); else lift(); },
  };
  TOOLS.forEach((name, number) => { keys[number + 1] = choose_tool(name); });
  listen(keys, { undo, redo });
}

async function start() {
  await store.open();
  const { facts } = store;
  app.grid = gridOf(facts.shape, facts.affine);
  app.position = facts.shape.map((count) => Math.floor(count / 2));
  fill(element("axis"), app.grid.planes.map(({ axis, name }) => [axis, `${name} (${"xyz"[axis]})`]), facts.axis);
  fill(element("channel"), facts.channels.map(({ name }, number) => [number, name || `channel ${number}`]), 0);
  element("channel-row").hidden = facts.channels.length < 2;
  planes = new Planes(element("planes"), app.grid, {
    press: (spot) => { lift(); tools.press(spot); },
    drag: (spot, pixels) => { app.hover = spot; tools.drag(spot, pixels); planes.redraw([spot.axis]); },
    release: () => tools.release(),
    hover: (spot) => {
      const axes = [app.hover?.axis, spot?.axis].filter((axis) => axis !== undefined);
      app.hover = spot;
      showPlace(spot?.voxel ?? app.position);
      planes.redraw(axes);
    },
    pull, scroll: (axis, steps) => { if (!tools.drawing) step(axis, steps); }, key: useKey, overlay, large: along,
  });
  for (const [name, preset] of Object.entries({ Auto: null, ...(facts.modality === "CT" ? PRESETS : {}) })) {
    const button = make("button", { type: "button", textContent: name });
    button.addEventListener("click", () => {
      const { low, high } = store.facts.channels[channel], [level, width] = preset ?? [(low + high) / 2, high - low];
      setWindow(level - width / 2, level + width / 2);
    });
    element("presets").append(button);
  }
  connect();
  await showChannel(0);
  planes.enlarge(facts.axis);
  refresh();
  say(facts.message || (facts.objects.length ? "" : "Add an object, mark it on a slice, then press Segment; or paint it."), Boolean(facts.message));
  document.body.dataset.ready = "yes";
  follow();
}

start().catch((error) => say(`The page could not start: ${error.message}`, true));

// For tests in a browser: where a voxel is on the screen.
window.foldwise = {
  app,
  screen(axis, voxel) {
    const box = document.querySelector(`.plane[data-axis="${axis}"] .picture`).getBoundingClientRect();
    const [x, y] = planes.view.canvasAt(axis, voxel.map((v, a) => v * app.grid.spacing[a]));
    return [box.left + x, box.top + y];
  },
};
