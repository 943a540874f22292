// Talks to the session's server. Changes go one after another, each with the version that the page shows.

/** A page's own number: one page writes, the others read. */
const PAGE = crypto.randomUUID();
const headers = (more = {}) => ({ "X-Page": PAGE, ...more });

async function ask(path, options = {}) {
  const answer = await fetch(`api/${path}`, options);
  if (answer.ok) return answer;
  const text = await answer.text();
  let reason = {};
  try { reason = JSON.parse(text); } catch { /* not an answer of ours */ }
  throw Object.assign(new Error(reason.error ?? text), { status: answer.status, why: reason.why });
}

const json = async (path, options) => (await ask(path, options)).json();

export const session = () => json("session");
export const progress = () => json("progress", { headers: headers() });
export const write = (force) => json("writer", { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify({ force }) });
export const stop = () => json("stop", { method: "POST", headers: headers() });
export const leave = () => fetch("api/leave", { method: "POST", headers: headers(), keepalive: true }).catch(() => {});

export function change(path, version, body = {}) {
  return json(path, { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify({ version, ...body }) });
}

export function load(version, file, resample) {
  const more = { "X-Resample": resample ? "yes" : "no", "X-Version": version, "X-Filename": encodeURIComponent(file.name), "Content-Type": "application/octet-stream" };
  return json("load", { method: "POST", headers: headers(more), body: file });
}

/** A stroke: flat indices (x fastest), all to one value. */
export function edit(version, indices, value) {
  const body = new ArrayBuffer(6 * indices.length);
  new Uint32Array(body, 0, indices.length).set(indices);
  new Uint16Array(body, 4 * indices.length).fill(value);
  return json("edit", { method: "POST", headers: headers({ "X-Version": version, "Content-Type": "application/octet-stream" }), body });
}

const ARRAYS = { int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, float32: Float32Array, float64: Float64Array };

/** A channel's values, x fastest; `report` is told the share read. */
export async function image(channel, report) {
  const answer = await ask(`image/${channel}`);
  const bytes = new Uint8Array(Number(answer.headers.get("Content-Length")));
  const reader = answer.body.getReader();
  let at = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes.set(value, at);
    at += value.length;
    report(at / bytes.length);
  }
  if (at < bytes.length) throw new Error("The scan was not sent in full; reload the page.");
  return new ARRAYS[answer.headers.get("X-Type")](bytes.buffer);
}

/**
 * The labels.
 *
 * @param {string} since the version the page has; none: all labels.
 * @returns {version, labels}, or {version, indices, values} of what is different.
 */
export async function labels(since = "") {
  const answer = await ask(`labels?since=${encodeURIComponent(since)}`);
  const data = await answer.arrayBuffer(), version = answer.headers.get("X-Version");
  if (answer.headers.get("X-Labels") === "all") return { version, labels: new ARRAYS[answer.headers.get("X-Type")](data) };
  const count = data.byteLength / 6;
  return { version, indices: new Uint32Array(data, 0, count), values: new Uint16Array(data, 4 * count, count) };
}
