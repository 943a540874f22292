// The page of a session. A slice is rows × columns; on screen, rows run right to left and columns bottom to
// top, so that a patient's right is on the left and the front or the head is up.

const element = (id) => document.getElementById(id);
const picture = element("picture"), strip = element("strip"), slider = element("slice");
const COLOURS = [[255, 99, 132], [76, 201, 240], [255, 209, 102], [144, 190, 109], [199, 125, 255], [255, 159, 28]];
const EDGES = { x: "APSI", y: "RLSI", z: "RLAP" };
const TOOLS = ["inside-line", "outside-line", "inside", "outside", "extreme", "box"];
const SHORTCUTS = { n: "jump", p: "propagate", Escape: "clear", u: "undo", s: "save", m: "shown" };

let session = null;
let image = null, mask = null;
let marks = new Map(); // object → {inside, outside, extreme, box: lists of [row, column]}
let history = []; // marks before each stroke
let cross = [0, 0], pen = false, drawing = false, busy = false, shownPlace = -1;

const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
const here = () => Number(slider.value);
const emptyMarks = () => ({ inside: [], outside: [], extreme: [], box: [] });

function marksOf(object) {
  if (!marks.has(object)) marks.set(object, emptyMarks());
  return marks.get(object);
}

function say(text, wrong = false) {
  element("status").textContent = text;
  element("status").classList.toggle("error", wrong);
}

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(`api/${path}`, options);
  if (!answer.ok) {
    const text = await answer.text();
    let reason = text;
    try { reason = JSON.parse(text).error; } catch { /* plain text */ }
    throw Object.assign(new Error(reason), { status: answer.status });
  }
  return answer;
}

// Slices ------------------------------------------------------------------------------------------------------

let wanted = 0;

async function show(place) {
  place = Math.max(0, Math.min(session.shape[0] - 1, place));
  if (place !== shownPlace) discardMarks();
  shownPlace = place;
  slider.value = place;
  const turn = ++wanted;
  const [grey, objects] = await Promise.all([ask(`image/${place}`), ask(`mask/${place}`)].map(
    async (answer) => new Uint8Array(await (await answer).arrayBuffer())));
  if (turn !== wanted) return; // a later slice was requested in the meantime
  image = grey;
  mask = objects;
  const index = session.source_slices[place];
  element("where").textContent = `Slice ${index} along ${session.source_axis}`;
  slider.setAttribute("aria-valuetext", `slice ${index}, quality ${session.quality[place] ?? "unknown"}`);
  draw();
  drawStrip();
}

function discardMarks() {
  if (history.length) say("Hints on the previous slice were discarded: a round uses one slice.");
  marks = new Map();
  history = [];
  pen = false;
  refreshButtons();
}

function fit() {
  const [, rows, columns] = session.shape, [high, wide] = session.spacing;
  const stage = element("stage").getBoundingClientRect();
  const scale = Math.min(stage.width / (rows * high), stage.height / (columns * wide)) * 0.96;
  picture.width = rows;
  picture.height = columns;
  picture.style.width = `${rows * high * scale}px`;
  picture.style.height = `${columns * wide * scale}px`;
}

function draw() {
  if (!image) return;
  const [, rows, columns] = session.shape;
  const context = picture.getContext("2d"), pixels = context.createImageData(rows, columns);
  const level = Number(element("level").value), width = Number(element("window").value);
  const opacity = element("shown").checked ? element("opacity").value / 100 : 0;
  const put = (row, column, colour, share) => {
    const at = 4 * ((columns - 1 - column) * rows + (rows - 1 - row));
    for (let part = 0; part < 3; part++) pixels.data[at + part] = pixels.data[at + part] * (1 - share) + colour[part] * share;
    pixels.data[at + 3] = 255;
  };
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const number = row * columns + column;
      const grey = Math.max(0, Math.min(255, ((image[number] - level) / width + 0.5) * 255));
      put(row, column, [grey, grey, grey], 1);
      if (mask[number]) put(row, column, COLOURS[(mask[number] - 1) % COLOURS.length], opacity);
    }
  }
  const inside = ([row, column]) => row >= 0 && column >= 0 && row < rows && column < columns;
  for (const [object, given] of marks) {
    const colour = COLOURS[object % COLOURS.length];
    for (const point of given.inside.filter(inside)) put(...point, colour, 1);
    for (const point of given.extreme.filter(inside)) put(...point, [255, 255, 255], 1);
    for (const point of given.outside.filter(inside)) put(...point, [70, 130, 255], 1);
    for (const point of outline(given.box).filter(inside)) put(...point, [255, 255, 255], 1);
  }
  if (document.activeElement === picture && inside(cross)) put(...cross, pen ? [255, 80, 80] : [0, 255, 255], 0.8);
  context.putImageData(pixels, 0, 0);
}

function outline(box) {
  if (box.length < 2) return box;
  const [[a, b], [c, d]] = box, points = [];
  for (let row = Math.min(a, c); row <= Math.max(a, c); row++) points.push([row, b], [row, d]);
  for (let column = Math.min(b, d); column <= Math.max(b, d); column++) points.push([a, column], [c, column]);
  return points;
}

function drawStrip() {
  const count = session.shape[0], ratio = window.devicePixelRatio || 1;
  strip.width = strip.clientWidth * ratio;
  strip.height = strip.clientHeight * ratio;
  const context = strip.getContext("2d"), step = strip.width / count, high = strip.height;
  const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name);
  for (let place = 0; place < count; place++) {
    const quality = session.quality[place], from = place * step, width = Math.max(1, step - ratio);
    if (session.hinted.includes(place)) {
      context.fillStyle = colour("--hint");
      context.fillRect(from, high * 0.2, width, high * 0.8);
      context.fillStyle = colour("--bad");
      // The mask does not follow the hints.
      if (quality !== null && quality < 0.5) context.fillRect(from, high * 0.6, width, high * 0.4);
    } else if (quality !== null && (session.filled[place] || quality < 1)) {
      // A lost mask has quality 0, and must be visible.
      const tall = high * Math.max(0.15, 0.8 * quality);
      context.fillStyle = `color-mix(in oklab, ${colour("--good")} ${Math.round(100 * quality)}%, ${colour("--bad")})`;
      context.fillRect(from, high - tall, width, tall);
    } else {
      context.fillStyle = colour("--line");
      context.fillRect(from, high - 2 * ratio, width, 2 * ratio);
    }
    if (place === session.suggestion) {
      context.fillStyle = colour("--next");
      context.beginPath();
      context.moveTo(from + step / 2 - 5 * ratio, 0);
      context.lineTo(from + step / 2 + 5 * ratio, 0);
      context.lineTo(from + step / 2, 8 * ratio);
      context.fill();
    }
  }
  context.strokeStyle = colour("--text");
  context.lineWidth = 1.5 * ratio;
  context.strokeRect(here() * step, 1, Math.max(3, step), high - 2);
}

// Session -----------------------------------------------------------------------------------------------------

function take(facts) {
  session = facts;
  element("scan").textContent = `${facts.scan} · ${facts.rounds} round${facts.rounds === 1 ? "" : "s"}`;
  const place = facts.suggestion;
  element("suggestion").textContent = place === null ? "" :
    `Suggested next: slice ${facts.source_slices[place]} (quality ${facts.quality[place].toFixed(2)})`;
  refreshButtons();
}

function refreshButtons() {
  const given = [...marks.values()].some((one) => Object.values(one).some((points) => points.length));
  element("propagate").disabled = busy || !given;
  element("clear").disabled = busy || !given;
  element("undo").disabled = busy || !session?.rounds;
  element("save").disabled = busy || !session?.rounds;
  element("nothing").disabled = busy;
  element("jump").disabled = busy || session?.suggestion == null;
}

async function change(doing, path, body, done) {
  busy = true;
  document.body.classList.add("busy");
  refreshButtons();
  say(doing);
  try {
    take(await (await ask(path, { version: session.version, ...body })).json());
    say([done(), session.message].filter(Boolean).join(" "), Boolean(session.message));
    return true;
  } catch (error) {
    if (error.status === 409) { // the session was changed elsewhere; the hints are kept
      take(await (await ask("session")).json());
      await show(here());
    }
    say(error.message, true);
    return false;
  } finally {
    busy = false;
    document.body.classList.remove("busy");
    refreshButtons();
  }
}

async function round(given) {
  const begun = performance.now();
  const kept = await change("Propagating…", "round", { slice: here(), marks: given },
    () => `Round ${session.rounds} took ${((performance.now() - begun) / 1000).toFixed(1)} s.`);
  if (!kept) return;
  marks = new Map();
  history = [];
  await show(here());
  refreshButtons();
}

const actions = {
  propagate: () => round([...marks].map(([object, given]) => ({ object, ...given }))),
  nothing: () => round([{ object: Number(chosen("object")), nothing: true }]),
  clear: () => { marks = new Map(); history = []; pen = false; refreshButtons(); draw(); },
  jump: () => session.suggestion !== null && show(session.suggestion),
  undo: async () => { await change("Undoing…", "undo", {}, () => "The last round was undone."); await show(here()); },
  save: () => change("Saving…", "save", {}, () => `Saved as ${session.saves}.`),
};

// Drawing -----------------------------------------------------------------------------------------------------

function voxel(event) {
  const box = picture.getBoundingClientRect(), [, rows, columns] = session.shape;
  const row = rows - 1 - Math.floor((event.clientX - box.left) / box.width * rows);
  const column = columns - 1 - Math.floor((event.clientY - box.top) / box.height * columns);
  return [Math.max(0, Math.min(rows - 1, row)), Math.max(0, Math.min(columns - 1, column))];
}

function remember() {
  history.push(JSON.stringify([...marks]));
}

function line(from, to) {
  const steps = Math.max(Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]), 1);
  return Array.from({ length: steps + 1 }, (_, n) => [0, 1].map((k) => Math.round(from[k] + (to[k] - from[k]) * n / steps)));
}

function add(kind, points) {
  const list = marksOf(Number(chosen("object")))[kind];
  for (const point of points) if (!list.some(([a, b]) => a === point[0] && b === point[1])) list.push(point);
  refreshButtons();
  draw();
}

function begin(point) {
  const tool = chosen("tool");
  remember();
  cross = point;
  if (tool.endsWith("-line")) add(tool.split("-")[0], [point]);
  else if (tool === "box") { marksOf(Number(chosen("object"))).box = [point, point]; refreshButtons(); draw(); }
  else add(tool, [point]);
}

function move(point) {
  const tool = chosen("tool");
  if (tool.endsWith("-line")) add(tool.split("-")[0], line(cross, point));
  else if (tool === "box") { marksOf(Number(chosen("object"))).box[1] = point; draw(); }
  cross = point;
}

picture.addEventListener("pointerdown", (event) => {
  if (busy || event.button !== 0) return;
  picture.setPointerCapture(event.pointerId);
  drawing = true;
  begin(voxel(event));
});
picture.addEventListener("pointermove", (event) => drawing && move(voxel(event)));
for (const end of ["pointerup", "pointercancel"]) picture.addEventListener(end, () => { drawing = false; });

picture.addEventListener("keydown", (event) => {
  // On screen, rows run right to left and columns bottom to top.
  const steps = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  if (steps[event.key]) {
    const [, rows, columns] = session.shape, [row, column] = steps[event.key];
    const next = [Math.max(0, Math.min(rows - 1, cross[0] + row)), Math.max(0, Math.min(columns - 1, cross[1] + column))];
    if (pen) move(next); else cross = next;
    draw();
    event.preventDefault();
  } else if (event.key === "Enter" && !busy) {
    const held = chosen("tool").endsWith("-line") || chosen("tool") === "box";
    if (pen) pen = false; else { begin(cross); pen = held; }
    draw();
    event.preventDefault();
  }
});
for (const change of ["focus", "blur"]) picture.addEventListener(change, draw);

element("stage").addEventListener("wheel", (event) => {
  event.preventDefault();
  if (!busy && !drawing && event.deltaY) show(here() + Math.sign(event.deltaY));
}, { passive: false });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey) {
    if (event.key === "z" && history.length) {
      marks = new Map(JSON.parse(history.pop()));
      refreshButtons();
      draw();
      event.preventDefault();
    }
    return;
  }
  if (event.key === "PageUp" || event.key === "PageDown") {
    if (!busy) show(here() + (event.key === "PageUp" ? -1 : 1));
    event.preventDefault();
  } else if (SHORTCUTS[event.key]) element(SHORTCUTS[event.key]).click();
  else if (TOOLS[event.key - 1]) document.querySelector(`input[value="${TOOLS[event.key - 1]}"]`).click();
});

// Start -------------------------------------------------------------------------------------------------------

for (const [id, action] of Object.entries(actions)) element(id).addEventListener("click", action);
for (const id of ["shown", "opacity", "level", "window"]) element(id).addEventListener("input", draw);
slider.addEventListener("input", () => show(here()));
strip.addEventListener("click", (event) => {
  const box = strip.getBoundingClientRect();
  if (!busy) show(Math.floor((event.clientX - box.left) / box.width * session.shape[0]));
});
window.addEventListener("resize", () => { fit(); draw(); drawStrip(); });
window.addEventListener("beforeunload", (event) => history.length && event.preventDefault());

take(await (await ask("session")).json());
session.objects.forEach((name, number) => {
  const label = document.createElement("label"), input = document.createElement("input"), swatch = document.createElement("span");
  Object.assign(input, { type: "radio", name: "object", value: number, checked: number === 0 });
  swatch.className = "swatch";
  swatch.style.background = `rgb(${COLOURS[number % COLOURS.length]})`;
  label.append(input, " ", swatch, name);
  element("objects").append(label);
});
[..."left right top bottom".split(" ")].forEach((side, number) => {
  document.querySelector(`.edge.${side}`).textContent = EDGES[session.axis][number];
});
slider.max = session.shape[0] - 1;
cross = [Math.floor(session.shape[1] / 2), Math.floor(session.shape[2] / 2)];
fit();
await show(session.suggestion ?? Math.floor(session.shape[0] / 2));
say(session.message || "Mark the object on a slice, then propagate.", Boolean(session.message));
