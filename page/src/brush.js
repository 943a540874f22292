// What the brush, the eraser and the fill change. Places are in mm along the file's axes: voxel (x, y, z) lies
// at (x·dx, y·dy, z·dz).

import { clamp, flat } from "./geometry.js";

/**
 * Call `visit` with the flat index of every voxel whose centre is within `radius` mm of the line between two
 * places; and of the voxel nearest to the second one, however small the brush.
 *
 * @param {number|null} axis only the slice of `to` across this axis; null: in all directions.
 */
export function along(grid, from, to, radius, axis, visit) {
  const { shape, spacing } = grid;
  const nearest = to.map((value, a) => clamp(Math.round(value / spacing[a]), 0, shape[a] - 1));
  const low = [0, 1, 2].map((a) => clamp(Math.ceil((Math.min(from[a], to[a]) - radius) / spacing[a] - 1e-9), 0, shape[a]));
  const high = [0, 1, 2].map((a) => clamp(Math.floor((Math.max(from[a], to[a]) + radius) / spacing[a] + 1e-9), -1, shape[a] - 1));
  if (axis !== null) low[axis] = high[axis] = nearest[axis];
  const v = to.map((value, a) => value - from[a]), size = v[0] ** 2 + v[1] ** 2 + v[2] ** 2;
  const limit = radius ** 2 * (1 + 1e-9);
  for (let z = low[2]; z <= high[2]; z++) {
    for (let y = low[1]; y <= high[1]; y++) {
      for (let x = low[0]; x <= high[0]; x++) {
        const p = [x * spacing[0] - from[0], y * spacing[1] - from[1], z * spacing[2] - from[2]];
        const t = size ? clamp((p[0] * v[0] + p[1] * v[1] + p[2] * v[2]) / size, 0, 1) : 0;
        const away = (p[0] - t * v[0]) ** 2 + (p[1] - t * v[1]) ** 2 + (p[2] - t * v[2]) ** 2;
        if (away <= limit) visit(x + shape[0] * (y + shape[1] * z));
      }
    }
  }
  visit(flat(shape, nearest));
}

/**
 * Call `visit` with the flat index of every voxel of a slice whose centre lies within a closed outline; where
 * the outline crosses itself, areas that it winds around twice are outside.
 *
 * @param {number[][]} outline places in mm.
 * @param {number} slice across `axis`.
 */
export function within(grid, outline, axis, slice, visit) {
  const { shape, spacing } = grid, [a, b] = [0, 1, 2].filter((one) => one !== axis);
  const voxel = [0, 0, 0];
  voxel[axis] = slice;
  for (voxel[b] = 0; voxel[b] < shape[b]; voxel[b]++) {
    const at = voxel[b] * spacing[b], crossings = [];
    outline.forEach((from, n) => {
      const to = outline[(n + 1) % outline.length];
      if ((from[b] <= at) !== (to[b] <= at)) crossings.push(from[a] + ((at - from[b]) / (to[b] - from[b])) * (to[a] - from[a]));
    });
    crossings.sort((one, other) => one - other);
    for (let n = 0; n + 1 < crossings.length; n += 2) {
      const last = Math.min(shape[a] - 1, Math.floor(crossings[n + 1] / spacing[a]));
      for (voxel[a] = Math.max(0, Math.ceil(crossings[n] / spacing[a])); voxel[a] <= last; voxel[a]++) visit(flat(shape, voxel));
    }
  }
}

/**
 * Flat indices of the area of one label around a voxel, on a plane.
 *
 * @returns null where the area reaches the slice's edge: nothing encloses it.
 */
export function enclosed(grid, labels, voxel, axis) {
  const { shape } = grid, [a, b] = [0, 1, 2].filter((one) => one !== axis);
  const steps = [1, shape[0], shape[0] * shape[1]], start = flat(shape, voxel), label = labels[start];
  const base = start - voxel[a] * steps[a] - voxel[b] * steps[b];
  const seen = new Uint8Array(shape[a] * shape[b]), found = [], waiting = [[voxel[a], voxel[b]]];
  seen[voxel[a] + shape[a] * voxel[b]] = 1;
  while (waiting.length) {
    const [i, j] = waiting.pop();
    found.push(base + i * steps[a] + j * steps[b]);
    for (const [m, n] of [[i - 1, j], [i + 1, j], [i, j - 1], [i, j + 1]]) {
      if (m < 0 || n < 0 || m >= shape[a] || n >= shape[b]) return null;
      if (seen[m + shape[a] * n] || labels[base + m * steps[a] + n * steps[b]] !== label) continue;
      seen[m + shape[a] * n] = 1;
      waiting.push([m, n]);
    }
  }
  return found;
}

/** One change of the labels, made bit by bit: a stroke. */
export class Stroke {
  #labels; #value; #may;

  /**
   * @param labels changed in place.
   * @param {number} value written.
   * @param may (flat index, its label) → whether it may be changed.
   */
  constructor(labels, value, may) {
    this.#labels = labels;
    this.#value = value;
    this.#may = may;
    this.indices = [];
    this.before = [];
  }

  get value() { return this.#value; }

  put(index) {
    const label = this.#labels[index];
    if (label === this.#value || !this.#may(index, label)) return;
    this.#labels[index] = this.#value;
    this.indices.push(index);
    this.before.push(label);
  }
}
