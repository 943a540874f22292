// The page of a session: joins the planes, the tools, the panel and the server.

import { app, say } from "./app.js";
import { addObject, between, follow, islands, jump, lift, load, mark, redo, save, segment, stop, undo, useKey } from "./changes.js";
import { gridOf } from "./geometry.js";
import { kept } from "./kept.js";
import { listen } from "./keys.js";
import { element, fill, make } from "./panel.js";
import { Planes } from "./planes.js";
import * as server from "./server.js";
import { along, choose, go, marked, overlay, pull, refresh, setWindow, showChannel, showLabels, showObjectsInPlanes, showPlace, showStrip, step } from "./shown.js";
import { Store } from "./store.js";
import { TOOLS, Tools } from "./tools.js";

// Level and width in HU, as radiology uses them.
const PRESETS = { Lung: [-600, 1500], "Soft tissue": [40, 400], Bone: [400, 1800], Brain: [40, 80], Mediastinum: [50, 350], Liver: [60, 160] };

app.tools = new Tools(app);
app.store = new Store({ facts: refresh, labels: showLabels, say });

function radius(mm) {
  element("radius").value = mm;
  element("radius-mm").value = mm;
  app.planes.redraw();
}

function toggle(id) { element(id).click(); }

const useTool = (name) => () => { lift(); document.querySelector(`input[name=tool][value=${name}]`).click(); };

function connect() {
  const clicks = {
    undo, redo, round: segment, clear: () => { app.marks.clear(); marked(); }, jump, between, islands: () => islands({ below_ml: Number(element("small").value) }), empty: () => mark("empty"),
    first: () => mark("spans", "first"), last: () => mark("spans", "last"), fit: () => app.planes.fit(),
    help: () => element("keys").showModal(),
    stop,
    take: async () => { await app.store.takeOver(); say("This page writes now."); refresh(); },
  };
  for (const [id, action] of Object.entries(clicks)) element(id).addEventListener("click", action);
  const inputs = {
    radius: () => radius(Number(element("radius").value)), "radius-mm": () => radius(Number(element("radius-mm").value)),
    opacity: showObjectsInPlanes, labels: showObjectsInPlanes, crosses: () => app.planes.redraw(), sent: () => app.planes.redraw(),
    smooth: () => app.planes.view.setSmooth(element("smooth").checked), engine: refresh, file: load,
    slice: () => step(app.axis, Number(element("slice").value) - app.position[app.axis]),
    axis: () => along(Number(element("axis").value)), channel: () => showChannel(Number(element("channel").value)),
  };
  for (const [id, action] of Object.entries(inputs)) element(id).addEventListener(id === "file" ? "change" : "input", action);
  for (const id of ["level", "width"]) element(id).addEventListener("change", () => {
    const [level, width] = [Number(element("level").value), Math.max(Number(element("width").value), 1e-6)];
    setWindow(level - width / 2, level + width / 2);
  });
  element("tool").addEventListener("change", () => { lift(); app.planes.redraw(); });
  element("add").addEventListener("submit", async (event) => {
    event.preventDefault();
    const name = element("name").value.trim();
    if (name && await addObject(name)) element("name").value = "";
  });
  element("strip").addEventListener("click", (event) => {
    const box = element("strip").getBoundingClientRect(), count = app.grid.shape[app.axis];
    step(app.axis, Math.floor(((event.clientX - box.left) / box.width) * count) - app.position[app.axis]);
  });
  window.addEventListener("resize", showStrip);
  window.addEventListener("beforeunload", (event) => { if (app.store.unsaved || app.marks.items.length) event.preventDefault(); });
  window.addEventListener("pagehide", () => server.leave());

  const focused = () => Number(document.activeElement?.dataset?.axis ?? app.axis);
  const keys = {
    c: useTool("cross"), w: useTool("window"), b: useTool("brush"), e: useTool("eraser"), f: useTool("fill"),
    l: useTool("lasso"), j: useTool("cut"), k: useTool("keep"),
    0: () => mark("empty"), "[": () => mark("spans", "first"), "]": () => mark("spans", "last"), d: () => toggle("deep"), i: between,
    ",": () => radius(Math.max(0.5, app.radius - 0.5)), ".": () => radius(Math.min(200, app.radius + 0.5)),
    "+": () => app.planes.zoomAtCross(focused(), 1.25), "=": () => app.planes.zoomAtCross(focused(), 1.25), "-": () => app.planes.zoomAtCross(focused(), 0.8),
    p: segment, n: jump, m: () => toggle("labels"), x: () => toggle("crosses"), r: () => app.planes.fit(), "?": clicks.help,
    s: () => app.store.facts.saves.length && app.store.writer && save(app.store.facts.saves[0]),
    o: () => {
      const at = app.store.facts.objects.findIndex((one) => one.number === app.active?.number);
      if (at >= 0) choose(app.store.facts.objects[(at + 1) % app.store.facts.objects.length].number);
    },
    PageUp: () => step(app.axis, -1), PageDown: () => step(app.axis, 1),
    Escape: () => { if (!stop()) lift(); },
  };
  TOOLS.forEach((name, number) => { keys[number + 1] = useTool(name); });
  listen(keys, { undo, redo });
}

async function start() {
  await app.store.open();
  // Before anything is shown, which keeps the marks anew.
  const { facts } = app.store, { marks, stale } = kept(facts);
  app.grid = gridOf(facts.shape, facts.affine);
  app.position = facts.shape.map((count) => Math.floor(count / 2));
  fill(element("axis"), app.grid.planes.map(({ axis, name }) => [axis, `${name} (${"xyz"[axis]})`]), facts.axis);
  fill(element("channel"), facts.channels.map(({ name }, number) => [number, name || `channel ${number}`]), 0);
  element("channel-row").hidden = facts.channels.length < 2;
  app.planes = new Planes(element("planes"), app.grid, {
    press: (spot) => { lift(); app.tools.press(spot); },
    drag: (spot, pixels) => { app.hover = spot; app.tools.drag(spot, pixels); app.planes.redraw([spot.axis]); },
    release: () => app.tools.release(),
    hover: (spot) => {
      const axes = [app.hover?.axis, spot?.axis].filter((axis) => axis !== undefined);
      app.hover = spot;
      showPlace(spot?.voxel ?? app.position);
      app.planes.redraw(axes);
    },
    pull, scroll: (axis, steps) => { if (!app.tools.drawing) step(axis, steps); }, key: useKey, overlay, large: along,
  });
  for (const [name, preset] of Object.entries({ Auto: null, ...(facts.modality === "CT" ? PRESETS : {}) })) {
    const button = make("button", { type: "button", textContent: name });
    button.addEventListener("click", () => {
      const { low, high } = app.store.facts.channels[app.channel], [level, width] = preset ?? [(low + high) / 2, high - low];
      setWindow(level - width / 2, level + width / 2);
    });
    element("presets").append(button);
  }
  connect();
  await showChannel(0);
  app.planes.enlarge(facts.axis);
  app.marks.restore(marks);
  marked();
  if (marks.length) say(`${marks.length} ${marks.length === 1 ? "mark" : "marks"} that you had not sent ${marks.length === 1 ? "is" : "are"} here again.`);
  else if (stale) say("Marks that you had not sent belonged to another state of the session, and were dropped.", true);
  else say(facts.message || (facts.objects.length ? "" : "Add an object, mark it on a slice, then press Segment; or paint it."), Boolean(facts.message));
  document.body.dataset.ready = "yes";
  follow();
}

start().catch((error) => say(`The page could not start: ${error.message}`, true));

// For tests in a browser: moving, and where a voxel is on the screen.
window.foldwise = {
  go,
  app,
  screen(axis, voxel) {
    const box = document.querySelector(`.plane[data-axis="${axis}"] .picture`).getBoundingClientRect();
    const [x, y] = app.planes.view.canvasAt(axis, voxel.map((v, a) => v * app.grid.spacing[a]));
    return [box.left + x, box.top + y];
  },
};
