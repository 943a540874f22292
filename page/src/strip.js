// The strip below the planes: how good an object's mask is on every slice, as far as anything is known.

/**
 * Draw it.
 *
 * @param {HTMLCanvasElement} canvas
 * @param state {count, quality: per slice, null where unknown; hinted: slices with marks; suggestion: slice or
 *   null; here: the slice that is shown}
 */
export function drawStrip(canvas, { count, quality, hinted, suggestion, here }) {
  const ratio = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const context = canvas.getContext("2d"), step = canvas.width / count, high = canvas.height, top = 9 * ratio;
  const unknown = hatch(context, colour("--unknown"), ratio), [good, bad] = [colour("--good"), colour("--bad")];
  const marked = new Set(hinted), width = Math.max(1, step > 4 * ratio ? step - ratio : step);
  for (let slice = 0; slice < count; slice++) {
    const value = quality?.[slice] ?? null, from = slice * step;
    if (value === null) {
      context.fillStyle = unknown;
      context.fillRect(from, top, width, high - top);
    } else {
      const tall = (high - top) * Math.max(0.15, value);
      context.fillStyle = `color-mix(in oklab, ${good} ${Math.round(100 * value)}%, ${bad})`;
      context.fillRect(from, high - tall, width, tall);
    }
    if (marked.has(slice)) {
      context.fillStyle = colour("--hint");
      context.fillRect(from, high - 5 * ratio, Math.max(width, 2 * ratio), 5 * ratio);
    }
  }
  if (suggestion !== null) {
    const middle = (suggestion + 0.5) * step;
    context.fillStyle = colour("--next");
    context.beginPath();
    context.moveTo(middle - 6 * ratio, 0);
    context.lineTo(middle + 6 * ratio, 0);
    context.lineTo(middle, 8 * ratio);
    context.fill();
  }
  context.strokeStyle = colour("--text");
  context.lineWidth = 1.5 * ratio;
  context.strokeRect(here * step, 1, Math.max(3 * ratio, step), high - 2);
}

function hatch(context, colour, ratio) {
  const tile = document.createElement("canvas"), size = 5 * ratio;
  tile.width = tile.height = size;
  const pen = tile.getContext("2d");
  pen.strokeStyle = colour;
  pen.lineWidth = ratio;
  for (const shift of [-size, 0, size]) {
    pen.moveTo(shift, size);
    pen.lineTo(shift + size, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}
