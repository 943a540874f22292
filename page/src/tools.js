// What each tool does where the pointer, or the cross and the Enter key, use it.

import { along, enclosed, Stroke, within } from "./brush.js";
import { islands } from "./changes.js";
import { flat } from "./geometry.js";
import { line } from "./marks.js";
import { element } from "./panel.js";
import { go, marked, pull } from "./shown.js";

export const TOOLS = ["inside-line", "outside-line", "inside", "outside", "extreme", "boxes", "lines"];
const HELD = new Set(["brush", "eraser", "lasso", "cut", "inside-line", "outside-line", "boxes", "lines", "window"]);

const PAINTS = new Set(["brush", "eraser", "fill", "lasso", "cut", "keep"]);

export class Tools {
  #app; #stroke = null; #last = null; #name = null;
  /** Held objects that the stroke came upon. */
  #met = new Set();
  /** The lasso: {axis, slice, places}. */
  outline = null;

  constructor(app) { this.#app = app; }

  /** Whether a tool is used by dragging: by keyboard, Enter puts it down and lifts it. */
  held(name) { return HELD.has(name); }

  /** A stroke, line or box is being made. */
  get drawing() { return this.#name !== null; }

  press(spot) {
    const app = this.#app, name = app.tool;
    if (name === "cross") {
      this.#name = name;
      return go(spot.near);
    }
    if (name === "window") {
      this.#name = name;
      return undefined;
    }
    if (!app.ready() || !spot.voxel) return undefined;
    this.#last = spot;
    // What is painted is seen.
    if (PAINTS.has(name) && !element("labels").checked) element("labels").click();
    if (name === "fill") return this.#fill(spot);
    if (name === "keep") return islands({ keep: spot.voxel });
    if (name === "lasso" || name === "cut") {
      this.#name = name;
      this.outline = { axis: spot.axis, slice: spot.voxel[spot.axis], places: [spot.world] };
      return app.planes.redraw([spot.axis]);
    }
    if (name === "brush" || name === "eraser") {
      const value = name === "brush" ? app.active.number : 0;
      this.#name = name;
      this.#stroke = new Stroke(app.store.labels, value, this.#allowed(name));
      return this.#paint(spot, spot);
    }
    const kind = name.split("-")[0], two = kind === "boxes" || kind === "lines";
    app.marks.add({ object: app.active.number, axis: spot.axis, kind, voxels: two ? [spot.voxel, spot.voxel] : [spot.voxel] });
    this.#name = this.held(name) ? name : null;
    return marked();
  }

  drag(spot, pixels) {
    const app = this.#app, name = this.#name;
    if (name === "cross") go(spot.near);
    else if (name === "window") pull(...pixels);
    else if (this.outline) this.outline.places.push(spot.world);
    else if (this.#stroke) {
      this.#paint(this.#last, spot);
      this.#last = spot;
    } else if (name === "boxes" || name === "lines") {
      app.marks.moveEnd(spot.near);
      marked();
    } else if (name) {
      // From edge to edge: outside the scan, a scribble goes on along its border.
      app.marks.extend(line(this.#last.near, spot.near));
      this.#last = spot;
      marked();
    }
  }

  release() {
    if (this.outline) this.#cut();
    if (this.#stroke) {
      this.#app.view.render();
      this.#app.store.paint(this.#stroke);
      this.#tell();
    }
    this.#stroke = this.#name = this.outline = null;
  }

  /** Fill, or clear, the inside of the lasso. */
  #cut() {
    const app = this.#app, { axis, slice, places } = this.outline, fills = this.#name === "lasso";
    this.#stroke = new Stroke(app.store.labels, fills ? app.active.number : 0, this.#allowed(fills ? "brush" : "eraser"));
    within(app.grid, places, axis, slice, (index) => this.#stroke.put(index));
    this.#show(this.#stroke.indices);
    app.planes.redraw([axis]);
  }

  /** Say what a stroke left as it was. */
  #tell() {
    const app = this.#app, none = !this.#stroke.indices.length;
    const held = [...this.#met].map((number) => app.store.object(number)).map(({ name, hidden }) => `${name} is ${hidden ? "hidden" : "locked"}`);
    if (held.length) app.say(`${held.join(", ")} and was not changed here.`, true);
    else if (none) app.say("Nothing was changed here.");
  }

  /** What a brush may change: never locked or hidden objects; the eraser only the chosen object. */
  #allowed(name) {
    const app = this.#app, number = app.active.number, limits = app.limits;
    this.#met.clear();
    if (name === "eraser") return (_, label) => label === number;
    const kept = new Set(app.store.facts.objects.filter((one) => one.locked || one.hidden).map((one) => one.number));
    const [low, high] = limits ?? [-Infinity, Infinity];
    return (index, label) => {
      if (limits && !(app.image[index] >= low && app.image[index] <= high)) return false;
      if (!kept.has(label)) return true;
      this.#met.add(label);
      return false;
    };
  }

  #paint(from, to) {
    const app = this.#app, begun = this.#stroke.indices.length;
    along(app.grid, from.world, to.world, app.radius, app.deep ? null : to.axis, (index) => this.#stroke.put(index));
    // The other planes follow when the stroke is done.
    this.#show(this.#stroke.indices, begun, [to.axis]);
  }

  #show(indices, from = 0, axes = [0, 1, 2]) {
    const plane = this.#app.grid.shape[0] * this.#app.grid.shape[1], slices = new Set();
    for (let n = from; n < indices.length; n++) slices.add(Math.floor(indices[n] / plane));
    if (slices.size) this.#app.view.labelsChanged(slices, axes);
  }

  #fill(spot) {
    const app = this.#app, { labels } = app.store, label = labels[flat(app.grid.shape, spot.voxel)];
    if (label === app.active.number) return app.say("This place is already of the object.");
    const found = enclosed(app.grid, labels, spot.voxel, spot.axis);
    if (!found) return app.say("Nothing encloses this place: the fill would reach the edge of the slice. Close the outline first.", true);
    const stroke = new Stroke(labels, app.active.number, this.#allowed("brush"));
    for (const index of found) stroke.put(index);
    if (!stroke.indices.length) return app.say("Nothing may be changed here: the object is locked or hidden, or no value is within the limits.", true);
    this.#show(stroke.indices);
    return app.store.paint(stroke);
  }
}
