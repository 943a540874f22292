// What is drawn over a plane: the cross, the marks, and the brush's outline.

import { contains } from "./geometry.js";

const OUTSIDE = "#ffffff";

export class Overlay {
  #view; #grid; #canvas; #context; #axis;

  constructor(view, grid, axis, canvas) {
    Object.assign(this, { axis });
    this.#view = view;
    this.#grid = grid;
    this.#axis = axis;
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  /** Where a place between voxels is on the canvas. */
  #at(voxel) { return this.#view.canvasAt(this.#axis, voxel.map((value, a) => value * this.#grid.spacing[a])); }

  /**
   * Draw all.
   *
   * @param state {position, cross, marks: {object, axis, kind, voxels, sent}, colours: Map, outline: places in mm or null, brush, pen,
   *   window: [black, white] to be told, or null}
   */
  draw({ position, cross, marks, colours, outline, brush, pen, window: shown }) {
    const box = this.#canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(box.width * ratio)) this.#canvas.width = Math.round(box.width * ratio);
    if (this.#canvas.height !== Math.round(box.height * ratio)) this.#canvas.height = Math.round(box.height * ratio);
    const context = this.#context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, box.width, box.height);
    for (const mark of marks) this.#mark(mark, position[this.#axis], colours.get(mark.object) ?? "#ffffff");
    if (cross) this.#cross(position, box, pen);
    if (outline) this.#outline(outline);
    if (brush) this.#ring(brush);
    this.#scale(box);
    if (shown) this.#text(`W ${Number((shown[1] - shown[0]).toPrecision(4))}  L ${Number(((shown[0] + shown[1]) / 2).toPrecision(4))}`, box.width - 8, box.height - 8, "right");
  }

  #mark({ axis, kind, voxels, sent }, slice, colour) {
    const context = this.#context, here = (voxel) => voxel[this.#axis] === slice;
    context.globalAlpha = sent ? 0.45 : 1;
    context.lineWidth = 1.5;
    context.strokeStyle = context.fillStyle = colour;
    if (kind === "boxes") {
      if (axis === this.#axis && here(voxels[0])) this.#box(voxels, colour);
    } else if (kind === "lines") {
      if (axis === this.#axis && here(voxels[0])) this.#diameter(voxels, colour);
    } else if (kind === "inside" || kind === "extreme" || kind === "outside") {
      const there = voxels.filter(here);
      for (const voxel of there) kind === "outside" ? this.#crossed(voxel, colour) : this.#dot(voxel, colour);
      // Single voxels are too small to be seen.
      if (kind === "extreme" || there.length <= 3) for (const voxel of there) this.#halo(voxel, kind === "inside" ? colour : OUTSIDE);
    }
    context.globalAlpha = 1;
  }

  /** Corners of a voxel's square. */
  #square(voxel) {
    const [a, b] = [0, 1, 2].filter((one) => one !== this.#axis), half = (sign) => voxel.map((v, n) => (n === a || n === b ? v + sign * 0.5 : v));
    const [p, q] = [this.#at(half(-1)), this.#at(half(1))];
    return [Math.min(p[0], q[0]), Math.min(p[1], q[1]), Math.abs(p[0] - q[0]), Math.abs(p[1] - q[1])];
  }

  #halo(voxel, colour) {
    const context = this.#context, [x, y, w, h] = this.#square(voxel);
    for (const [width, style] of [[3, "#000000"], [1.5, colour]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.beginPath();
      context.arc(x + w / 2, y + h / 2, Math.max(7, w), 0, 2 * Math.PI);
      context.stroke();
    }
    context.lineWidth = 1.5;
  }

  #dot(voxel, colour) {
    const context = this.#context, [x, y, w, h] = this.#square(voxel);
    context.fillStyle = colour;
    context.fillRect(x, y, Math.max(w, 2), Math.max(h, 2));
  }

  #crossed(voxel, colour) {
    const context = this.#context, [x, y, w, h] = this.#square(voxel), size = Math.max(w, h, 3);
    context.fillStyle = OUTSIDE;
    context.fillRect(x, y, size, size);
    context.strokeStyle = colour;
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + size, y + size);
    context.stroke();
  }

  #box([one, other], colour) {
    const [p, q] = [this.#square(one), this.#square(other)], context = this.#context;
    const x = Math.min(p[0], q[0]), y = Math.min(p[1], q[1]);
    const [w, h] = [Math.max(p[0] + p[2], q[0] + q[2]) - x, Math.max(p[1] + p[3], q[1] + q[3]) - y];
    context.strokeStyle = "#000000";
    context.strokeRect(x - 1, y - 1, w + 2, h + 2);
    context.strokeStyle = colour;
    context.strokeRect(x, y, w, h);
  }

  #diameter(ends, colour) {
    const context = this.#context, [p, q] = ends.map((voxel) => this.#at(voxel));
    for (const [width, style] of [[4, "#000000"], [2, colour]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.beginPath();
      context.moveTo(...p);
      context.lineTo(...q);
      context.stroke();
    }
    const mm = Math.hypot(...ends[0].map((value, a) => (value - ends[1][a]) * this.#grid.spacing[a]));
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = "#ffffff";
    context.fillText(`${mm.toFixed(1)} mm`, q[0] + 6, q[1] - 6);
  }

  #outline(places) {
    const context = this.#context, points = places.map((place) => this.#view.canvasAt(this.#axis, place));
    const path = new Path2D();
    points.forEach((point, n) => (n ? path.lineTo(...point) : path.moveTo(...point)));
    path.closePath();
    for (const [width, style] of [[3, "#000000"], [1.5, "#ffffff"]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.stroke(path);
    }
  }

  #cross(position, box, pen) {
    if (!contains(this.#grid.shape, position)) return;
    const [x, y] = this.#at(position), context = this.#context, gap = 10;
    context.strokeStyle = pen ? "#ff8a65" : "#5cc8ff";
    context.globalAlpha = 0.75;
    context.lineWidth = 1;
    context.beginPath();
    for (const [from, to] of [[0, x - gap], [x + gap, box.width]]) { context.moveTo(from, y); context.lineTo(to, y); }
    for (const [from, to] of [[0, y - gap], [y + gap, box.height]]) { context.moveTo(x, from); context.lineTo(x, to); }
    context.stroke();
    context.globalAlpha = 1;
  }

  /** Pixels of so many mm. */
  #pixels(mm) {
    const [across] = [0, 1, 2].filter((one) => one !== this.#axis);
    const [p, q] = [0, mm].map((at) => this.#view.canvasAt(this.#axis, [0, 1, 2].map((a) => (a === across ? at : 0))));
    return Math.hypot(p[0] - q[0], p[1] - q[1]);
  }

  #text(text, x, y, align) {
    const context = this.#context;
    Object.assign(context, { font: "12px system-ui, sans-serif", textAlign: align, lineWidth: 3, strokeStyle: "#000000", fillStyle: "#ffffff" });
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
    context.textAlign = "left";
  }

  /** A bar of a round length: up to a quarter of the plane. */
  #scale(box) {
    const unit = this.#pixels(1), lengths = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500];
    const mm = lengths.findLast((length) => length * unit <= box.width / 4);
    if (!mm) return;
    const context = this.#context, [x, y, long] = [8, box.height - 8, mm * unit];
    for (const [width, style] of [[4, "#000000"], [2, "#ffffff"]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.beginPath();
      context.moveTo(x, y - 6);
      context.lineTo(x, y);
      context.lineTo(x + long, y);
      context.lineTo(x + long, y - 6);
      context.stroke();
    }
    this.#text(mm >= 10 ? `${mm / 10} cm` : `${mm} mm`, x + 5, y - 5, "left");
  }

  #ring({ canvas, radius }) {
    const context = this.#context, size = this.#pixels(radius);
    for (const [width, style] of [[3, "#000000"], [1.5, "#ffffff"]]) {
      context.lineWidth = width;
      context.strokeStyle = style;
      context.beginPath();
      context.arc(...canvas, size, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}
