// The session as the page has it: facts, labels, and strokes on their way to the server.
//
// Strokes are painted at once and sent one after another; none is dropped before the server has it or has
// refused it in words. `version` is that of the server's labels under the strokes that wait.

import * as server from "./server.js";

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

export class Store {
  #on; #waiting = []; #sending = null; #current = null; #counts = new Uint32Array(65536);

  /** @param on {facts(), labels(slices | null), say(text, wrong)}: null: the labels are another array. */
  constructor(on) {
    this.#on = on;
    this.facts = null;
    this.labels = null;
    this.version = "";
    this.writer = false;
    this.busy = false;
  }

  /** Number of strokes that the server does not have yet. */
  get unsaved() { return this.#waiting.length; }

  async open() {
    this.writer = (await server.write(false)).writer;
    await this.refresh(true);
  }

  object(number) { return this.facts.objects.find((one) => one.number === number); }

  #take(facts) {
    this.facts = facts;
    const last = Math.max(0, ...facts.objects.map((one) => one.number));
    if (last > 255 && this.labels instanceof Uint8Array) {
      this.labels = Uint16Array.from(this.labels);
      this.#on.labels(null);
    }
    this.#on.facts();
  }

  /** Read facts and labels again; `all`: not only what is different. */
  async refresh(all = false) {
    for (;;) {
      const facts = await server.session();
      if (!all && facts.version === this.version) return this.#take(facts);
      const got = await server.labels(all ? "" : this.version);
      if (got.version !== facts.version) continue;
      this.version = got.version;
      if (got.labels) {
        // In place where it can be: another array would be held twice for a while.
        const same = this.labels?.constructor === got.labels.constructor;
        if (same) this.labels.set(got.labels);
        else this.labels = got.labels;
        this.#recount();
        this.#take(facts);
        this.#reapply();
        return this.#on.labels(same ? Array(facts.shape[2]).keys() : null);
      }
      this.#take(facts);
      const slices = this.#put(got.indices, (n) => got.values[n]);
      for (const z of this.#reapply()) slices.add(z);
      return this.#on.labels(slices);
    }
  }

  #recount() {
    const counts = new Uint32Array(65536);
    for (let i = 0; i < this.labels.length; i++) counts[this.labels[i]]++;
    this.#counts = counts;
  }

  /** Set voxels; returns their slices along z. */
  #put(indices, value) {
    const { labels } = this, plane = this.facts.shape[0] * this.facts.shape[1], slices = new Set();
    for (let n = 0; n < indices.length; n++) {
      const at = indices[n], label = value(n);
      this.#counts[labels[at]]--;
      this.#counts[label]++;
      labels[at] = label;
      slices.add(Math.floor(at / plane));
    }
    return slices;
  }

  #reapply() {
    const slices = new Set();
    for (const { indices, value } of this.#waiting) for (const z of this.#put(indices, () => value)) slices.add(z);
    return slices;
  }

  /** A finished stroke, already in the labels: send it. */
  paint(stroke) {
    if (!stroke.indices.length) return;
    for (const label of stroke.before) this.#counts[label]--;
    this.#counts[stroke.value] += stroke.indices.length;
    this.#waiting.push({ indices: Uint32Array.from(stroke.indices), value: stroke.value });
    this.#on.facts();
    this.#send();
  }

  #send() {
    this.#sending ??= this.#sendAll().finally(() => { this.#sending = null; });
    return this.#sending;
  }

  async #sendAll() {
    while (this.#waiting.length && this.writer) {
      const { indices, value } = this.#waiting[0];
      try {
        const facts = await server.edit(this.version, indices, value);
        this.#waiting.shift();
        this.version = facts.version;
        this.#take(facts);
      } catch (error) {
        if (!await this.#recover(error)) return;
      }
    }
    if (!this.#waiting.length && this.facts.objects.some((one) => one.voxels !== this.#counts[one.number])) {
      await this.refresh(true);
      this.#on.say("The page and the session did not agree; the session's objects are shown.", true);
    }
  }

  /** After a stroke could not be sent: whether to go on. */
  async #recover(error) {
    const count = this.#waiting.length, strokes = `${count} stroke${count > 1 ? "s" : ""}`;
    if (error.why === "reader") {
      this.lose(error.message);
      return false;
    }
    if (error.why === "outdated") {
      await this.refresh();
      this.#on.say("The session was changed elsewhere. Its current state is shown, with your stroke: check it.", true);
      return true;
    }
    if (error.status && error.status < 500) {
      this.#waiting.shift();
      await this.refresh(true);
      this.#on.say(`The stroke was refused and is undone: ${error.message}`, true);
      return true;
    }
    this.#on.say(`The server does not answer: ${strokes} not saved yet. Trying again; do not close the page.`, true);
    await pause(1);
    return true;
  }

  lose(text) {
    this.writer = false;
    this.#on.say(text, true);
    this.#on.facts();
  }

  /** Write from this page; strokes that waited are sent on top of the session as it is now. */
  async takeOver() {
    this.writer = (await server.write(true)).writer;
    await this.refresh();
    await this.#send();
  }

  /**
   * A change by the server, after those before it.
   *
   * @param doing (version) → promise of the new facts.
   * @param otherwise (error) → whether the failure needs no words here.
   * @returns the answer, or null after a failure.
   */
  async change(doing, otherwise = () => false) {
    while (this.#current) await this.#current;
    this.busy = true;
    this.#on.facts();
    this.#current = this.#change(doing, otherwise);
    try {
      return await this.#current;
    } finally {
      this.#current = null;
      this.busy = false;
      this.#on.facts();
    }
  }

  async #change(doing, otherwise) {
    try {
      await this.#send();
      if (!this.writer) throw Object.assign(new Error("This page reads only; another one writes."), { status: 409 });
      const answer = await doing(this.version);
      this.#take(answer);
      if (answer.version !== this.version) await this.refresh();
      return answer;
    } catch (error) {
      if (error.why === "reader") this.writer = false;
      if (error.why === "outdated") await this.refresh();
      if (!otherwise(error)) this.#on.say(error.status ? error.message : `The server does not answer (${error.message}).`, true);
      return null;
    }
  }

  /** Follow a session that others change; called now and then. */
  async follow(told) {
    if (this.busy || this.#sending) return;
    if (this.writer && !told.writer) this.lose("Another page writes to this session now.");
    if (told.version !== this.version && !this.#waiting.length) await this.refresh();
  }
}
