// Marks that are not sent yet: of any object, on any plane. Sent marks come back with the session's facts.

export const KINDS = {
  inside: "inside", outside: "outside", extreme: "extreme point", lines: "diameter", boxes: "box",
  empty: "not on this slice", spans: "slices",
};

/** The voxels of a straight line between two voxels, both included. */
export function line(from, to) {
  const steps = Math.max(1, ...from.map((value, axis) => Math.abs(to[axis] - value)));
  return Array.from({ length: steps + 1 }, (_, n) => from.map((value, axis) => Math.round(value + ((to[axis] - value) * n) / steps)));
}

export class Marks {
  #items = []; #aside = []; #past = []; #future = []; #next = 1;

  get items() { return this.#items; }
  /** With those of objects that are not there now. */
  get all() { return [...this.#items, ...this.#aside]; }
  get canUndo() { return this.#past.length > 0; }
  get canRedo() { return this.#future.length > 0; }

  /** Before a change: what undo returns to. */
  #remember() {
    this.#past.push(structuredClone(this.#items));
    this.#future = [];
  }

  /**
   * Add a mark.
   *
   * @param {{object, axis, kind, voxels}} mark `voxels`: points; two ends or corners for lines and boxes;
   *   slice numbers for "empty"; [first, last] for "spans".
   */
  add(mark) {
    this.#remember();
    this.#items.push({ ...mark, id: this.#next++ });
  }

  /** Lengthen the last mark, as a part of the same step. */
  extend(voxels) {
    const mark = this.#items.at(-1), there = new Set(mark.voxels.map(String));
    for (const voxel of voxels) if (!there.has(String(voxel))) { mark.voxels.push(voxel); there.add(String(voxel)); }
  }

  /** Move the second end of the last mark, as a part of the same step. */
  moveEnd(voxel) { this.#items.at(-1).voxels[1] = voxel; }

  /** First or last slice of an object; the other end stays as it was said, or is the scan's. */
  span(object, axis, end, slice, count) {
    this.#remember();
    const same = (mark) => mark.kind === "spans" && mark.object === object && mark.axis === axis;
    const said = this.#items.find(same)?.voxels ?? [0, count - 1];
    const range = end === "first" ? [slice, Math.max(slice, said[1])] : [Math.min(slice, said[0]), slice];
    this.#items = [...this.#items.filter((mark) => !same(mark)), { object, axis, kind: "spans", voxels: range, id: this.#next++ }];
  }

  remove(id) {
    this.#remember();
    this.#items = this.#items.filter((mark) => mark.id !== id);
  }

  clear() {
    if (!this.#items.length) return;
    this.#remember();
    this.#items = [];
  }

  /**
   * Set marks of objects that are not there aside; those of objects that are there again come back.
   *
   * @param {Set<number>} numbers of the objects.
   * @returns whether any did; single marks cannot be undone before it.
   */
  settle(numbers) {
    const gone = this.#items.filter((mark) => !numbers.has(mark.object)), back = this.#aside.filter((mark) => numbers.has(mark.object));
    if (!gone.length && !back.length) return false;
    const all = this.all;
    this.#items = all.filter((mark) => numbers.has(mark.object));
    this.#aside = all.filter((mark) => !numbers.has(mark.object));
    this.#past = [];
    this.#future = [];
    return true;
  }

  /** Drop marks that were set aside for an object: its number is another one's now. */
  forget(object) { this.#aside = this.#aside.filter((mark) => mark.object !== object); }

  /** Marks as `all` gave them. */
  restore(marks) { this.#items = marks.map((mark) => ({ ...mark, id: this.#next++ })); }

  undo() {
    this.#future.push(this.#items);
    this.#items = this.#past.pop();
  }

  redo() {
    this.#past.push(this.#items);
    this.#items = this.#future.pop();
  }

  /** After a round: they are the session's now. */
  sent() {
    this.#items = [];
    this.#past = [];
    this.#future = [];
  }

  /**
   * As the server takes them: object number → parts {axis, kind: values}, the oldest first. Of several marks
   * on a voxel the last one counts. Within a part "outside" does, so a mark inside after it begins another.
   */
  forRound() {
    const parts = {};
    for (const { object, axis, kind, voxels } of this.#items) {
      const list = (parts[object] ??= []);
      let part = list.at(-1);
      const drawn = ["inside", "extreme", "lines"].includes(kind);
      if (!part || part.axis !== axis || (drawn && part.outside) || (kind === "spans" && part.spans)) {
        part = { axis };
        list.push(part);
      }
      const one = ["lines", "boxes", "spans"].includes(kind);
      (part[kind] ??= []).push(...(one ? [voxels] : voxels));
    }
    return parts;
  }
}
