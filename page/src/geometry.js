// Where the scan's axes point in the patient, and how its planes lie on the screen.
//
// Voxels are (x, y, z) along the file's axes. Planes are those of the file's grid, so that every pixel shows
// voxels as they are; an oblique scan's planes are named by the anatomical plane closest to them.

const ENDS = [["L", "R"], ["P", "A"], ["I", "S"]];
const NAMES = ["Sagittal", "Coronal", "Axial"];
// Per anatomical plane (across R, A, S): which anatomical axes run to the right and downwards. Both run
// towards L, P or I, as radiologists hang pictures.
const HANGING = [[1, 2], [0, 2], [0, 1]];
const ORDERS = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

const length = (v) => Math.hypot(...v);

/** Letters of a direction in RAS, the nearest anatomical end first; those more than 17° away are added. */
export function letters(direction) {
  const size = length(direction);
  const order = [0, 1, 2].sort((a, b) => Math.abs(direction[b]) - Math.abs(direction[a]));
  return order
    .filter((axis, rank) => rank === 0 || Math.abs(direction[axis]) / size > 0.3)
    .map((axis) => ENDS[axis][direction[axis] > 0 ? 1 : 0])
    .join("");
}

/**
 * The grid of a scan.
 *
 * @param {number[]} shape voxels along x, y, z.
 * @param {number[][]} affine 4×4, voxel index to mm in RAS+.
 * @returns spacing in mm; `planes`, one across each axis of the file, with the screen's directions as
 *   {axis, sign}, its letters and its name.
 */
export function gridOf(shape, affine) {
  const columns = [0, 1, 2].map((axis) => [0, 1, 2].map((row) => affine[row][axis]));
  const spacing = columns.map(length);
  const cosine = (axis, anatomical) => columns[axis][anatomical] / spacing[axis];
  const fit = (order) => order.reduce((sum, anatomical, axis) => sum + Math.abs(cosine(axis, anatomical)), 0);
  // order[file axis] is the anatomical axis closest to it.
  const order = ORDERS.reduce((best, one) => (fit(one) > fit(best) + 1e-9 ? one : best));

  const planes = [0, 1, 2].map((axis) => {
    const anatomical = order[axis];
    const [right, down] = HANGING[anatomical].map((end) => {
      const along = order.indexOf(end);
      return { axis: along, sign: cosine(along, end) > 0 ? -1 : 1 };
    });
    const towards = ({ axis: along, sign }) => columns[along].map((value) => sign * value);
    const [u, v] = [columns[right.axis], columns[down.axis]];
    const normal = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    const tilt = Math.round((Math.acos(Math.min(1, Math.abs(normal[anatomical]) / length(normal))) * 180) / Math.PI);
    return {
      axis,
      right,
      down,
      letters: {
        left: letters(towards({ ...right, sign: -right.sign })),
        right: letters(towards(right)),
        top: letters(towards({ ...down, sign: -down.sign })),
        bottom: letters(towards(down)),
      },
      name: NAMES[anatomical] + (tilt >= 3 ? `, ${tilt}° oblique` : ""),
    };
  });
  const toMm = (voxel) => [0, 1, 2].map((row) => affine[row][3] + voxel.reduce((sum, v, axis) => sum + affine[row][axis] * v, 0));
  return { shape, spacing, planes, toMm, size: shape[0] * shape[1] * shape[2] };
}

/** Flat index of a voxel, x fastest, as the page keeps arrays. */
export const flat = (shape, [x, y, z]) => x + shape[0] * (y + shape[1] * z);

export const contains = (shape, voxel) => voxel.every((v, axis) => v >= 0 && v < shape[axis]);

export const clamp = (value, low, high) => Math.max(low, Math.min(high, value));
