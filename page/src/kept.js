// Marks that are not sent outlive a reload of the page: the browser keeps them for its tab.

const KEY = "foldwise-marks";

/** The state that marks were made in: of which session, after which step, with which objects. */
const stateOf = ({ session, version, objects }) => JSON.stringify([session, version, objects.map(({ number, name }) => [number, name])]);

/** Keep all marks that are not sent, made in the state that `facts` describe. */
export function keep(facts, marks) {
  try {
    if (marks.length) sessionStorage.setItem(KEY, JSON.stringify({ state: stateOf(facts), marks }));
    else sessionStorage.removeItem(KEY);
  } catch { /* The browser keeps nothing, or has no more room: the marks are on the page alone. */ }
}

/**
 * The marks that were kept.
 *
 * @returns {marks, stale}: none of another state; `stale` says that there were such.
 */
export function kept(facts) {
  try {
    const { state, marks } = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
    if (!marks?.length) return { marks: [], stale: false };
    return state === stateOf(facts) ? { marks, stale: false } : { marks: [], stale: true };
  } catch {
    return { marks: [], stale: false };
  }
}
