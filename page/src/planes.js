// The three planes: their elements, and what the pointer does on them.

import { clamp, contains } from "./geometry.js";
import { Overlay } from "./overlay.js";
import { VolumeView } from "./volume_view.js";

/** Pixels of the wheel for one slice; a notch gives one at least. */
const NOTCH = 50;

export class Planes {
  #grid; #host; #on; #frames = []; #overlays = []; #wheel = 0; #stale = new Set();

  /**
   * @param {HTMLElement} host gets the planes.
   * @param grid from gridOf.
   * @param on {press(spot), drag(spot), release(), hover(spot | null), pull(axis, dx, dy, event), scroll(axis, steps),
   *   key(axis, event), overlay(axis) → what Overlay.draw takes, large(axis)}; a spot is {axis, world, voxel, canvas}.
   */
  constructor(host, grid, on) {
    this.#host = host;
    this.#grid = grid;
    this.#on = on;
    for (const plane of grid.planes) this.#frames.push(this.#build(plane));
    this.view = new VolumeView(grid, this.#frames.map((frame) => frame.querySelector(".picture")));
    for (const { axis } of grid.planes) {
      this.#overlays.push(new Overlay(this.view, grid, axis, this.#frames[axis].querySelector("canvas.over")));
      this.#listen(axis);
    }
    this.view.onDrawn((axis) => this.redraw([axis]));
    new ResizeObserver(() => this.#resized()).observe(host);
  }

  #build({ axis, letters, name }) {
    const frame = document.createElement("div");
    frame.className = "plane";
    frame.tabIndex = 0;
    frame.dataset.axis = axis;
    frame.setAttribute("role", "application");
    frame.setAttribute("aria-label", `${name}. Arrow keys move the cross, Page Up and Page Down the slice; Enter uses the tool, and puts a pen down or lifts it.`);
    const picture = document.createElement("div"), over = document.createElement("canvas"), button = document.createElement("button");
    picture.className = "picture";
    over.className = "over";
    frame.append(picture, over);
    for (const [side, text] of [...Object.entries(letters), ["title", name]]) {
      const span = document.createElement("span");
      span.className = side;
      span.textContent = text;
      frame.append(span);
    }
    Object.assign(button, { type: "button", className: "enlarge", textContent: "⤢", title: "Enlarge this plane" });
    button.setAttribute("aria-label", `Enlarge ${name}`);
    button.addEventListener("click", () => this.enlarge(axis));
    frame.append(button);
    this.#host.append(frame);
    return frame;
  }

  enlarge(axis) {
    this.#frames.forEach((frame, other) => frame.classList.toggle("large", other === axis));
    this.#on.large(axis);
    this.#resized();
  }

  #resized() {
    this.view.resize();
    this.fit();
  }

  /** Whole slices in every plane. */
  fit() {
    for (const { axis } of this.#grid.planes) this.view.fit(axis);
    this.view.show(this.#on.overlay(0).position);
  }

  /** Draw what lies over the planes again, before the next frame. */
  redraw(axes = [0, 1, 2]) {
    if (!this.#stale.size) requestAnimationFrame(() => {
      for (const axis of this.#stale) {
        const state = this.#on.overlay(axis);
        this.#overlays[axis].draw(state);
        this.#frames[axis].querySelector(".title").textContent = `${this.#grid.planes[axis].name}, ${"xyz"[axis]} ${state.position[axis]}`;
      }
      this.#stale.clear();
    });
    for (const axis of axes) this.#stale.add(axis);
  }

  /** What lies under a pointer; the voxel is null outside the scan. */
  #spot(axis, event) {
    const box = this.#frames[axis].querySelector(".picture").getBoundingClientRect();
    return this.spotAt(axis, [event.clientX - box.left, event.clientY - box.top]);
  }

  spotAt(axis, canvas) {
    const { shape, spacing } = this.#grid, world = this.view.worldAt(axis, canvas);
    // The camera's focus lies on the slice, up to rounding.
    world[axis] = this.#on.overlay(axis).position[axis] * spacing[axis];
    const voxel = world.map((value, a) => Math.round(value / spacing[a]));
    return { axis, canvas, world, voxel: contains(shape, voxel) ? voxel : null, near: voxel.map((v, a) => clamp(v, 0, shape[a] - 1)) };
  }

  #listen(axis) {
    const frame = this.#frames[axis];
    let held = null, last = [0, 0];
    frame.addEventListener("contextmenu", (event) => event.preventDefault());
    frame.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button") || held !== null) return;
      frame.setPointerCapture(event.pointerId);
      frame.focus({ preventScroll: true });
      [held, last] = [event.button, [event.clientX, event.clientY]];
      if (held === 0) this.#on.press(this.#spot(axis, event));
      event.preventDefault();
    });
    frame.addEventListener("pointermove", (event) => {
      if (held === null) return this.#on.hover(this.#spot(axis, event));
      const [dx, dy] = [event.clientX - last[0], event.clientY - last[1]];
      last = [event.clientX, event.clientY];
      if (held === 1) this.#move(axis, dx, dy);
      else if (held === 2) this.#on.pull(dx, dy);
      else {
        // Every place that the pointer passed, so that a fast stroke has no corners.
        const passed = event.getCoalescedEvents?.() ?? [];
        for (const one of passed.length ? passed : [event]) this.#on.drag(this.#spot(axis, one), [dx, dy]);
      }
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      frame.addEventListener(end, () => {
        if (held === 0) this.#on.release();
        held = null;
      });
    }
    frame.addEventListener("pointerleave", () => held === null && this.#on.hover(null));
    frame.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (held !== null) return;
      if (event.ctrlKey || event.metaKey) return this.#zoom(axis, Math.exp(-clamp(event.deltaY, -100, 100) / 300), this.#spot(axis, event).canvas);
      const pixels = event.deltaMode === 0 ? event.deltaY : event.deltaY * NOTCH;
      this.#wheel = Math.sign(this.#wheel) === Math.sign(pixels) ? this.#wheel + pixels : pixels;
      const steps = Math.trunc(this.#wheel / NOTCH);
      this.#wheel -= steps * NOTCH;
      if (steps) this.#on.scroll(axis, Math.sign(steps) * Math.max(1, Math.abs(steps) >> 1));
    }, { passive: false });
    frame.addEventListener("keydown", (event) => this.#on.key(axis, event));
    for (const change of ["focus", "blur"]) frame.addEventListener(change, () => this.redraw([axis]));
  }

  #move(axis, dx, dy) {
    this.view.pan(axis, dx, dy);
    this.view.show(this.#on.overlay(axis).position, [axis]);
  }

  #zoom(axis, factor, canvas) {
    this.view.zoom(axis, factor, canvas);
    this.view.show(this.#on.overlay(axis).position, [axis]);
  }

  /** Zoom by keyboard, around the cross. */
  zoomAtCross(axis, factor) {
    const { position } = this.#on.overlay(axis);
    this.#zoom(axis, factor, this.view.canvasAt(axis, position.map((value, a) => value * this.#grid.spacing[a])));
  }
}
