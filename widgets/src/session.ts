/** What a plugin's panel is given: a small versioned window on the store. `docs/panels.md` describes it. */

import type { Doses } from "./reducers.ts";
import { MISSING } from "./render/renderer.ts";
import type { Reply } from "./requests.ts";
import type { Key, Store } from "./store.ts";
import { currentTheme, watchTheme } from "./theme.ts";
import type { SessionState } from "./types.ts";

const VERSION = 1;

const LISTEN: Record<string, Key[]> = {
  state: ["state"],
  model: ["state"],
  doses: ["doses"],
  selection: ["selection"],
  positions: ["_xy", "_after", "t"],
  job: ["_job"],
  n: ["_meta"],
};

export function panelSession(store: Store, panel: string) {
  const stops: (() => void)[] = [];
  const read: Record<string, () => unknown> = {
    n: () => store.n,
    state: () => structuredClone(store.state),
    model: () => store.state.model,
    doses: () => ({ ...store.doses }),
    selection: () => store.selection.slice(),
    job: () => structuredClone(store.get("_job")),
    positions: () => {
      const before = store.positions("before");
      const after = store.positions("after") ?? before;
      return before && Float32Array.from(before, (from, i) => between(from, after![i], store.t));
    },
  };
  const write: Record<string, (value: unknown) => void> = {
    state: (value) => store.patch(value as Partial<SessionState>),
    doses: (value) => store.setDoses(value as Doses, true),
    selection: (value) => store.setSelection(Uint8Array.from(value as ArrayLike<number>)),
  };
  const known = (name: string, table: Record<string, unknown>) => {
    if (!(name in table))
      throw new Error(`session has no "${name}"; it has ${Object.keys(table).join(", ")}`);
  };
  const session = {
    version: VERSION,
    get theme() {
      return currentTheme();
    },
    get(name: string): unknown {
      known(name, read);
      return read[name]();
    },
    set(name: string, value: unknown) {
      known(name, write);
      // A panel may set something as soon as it is there: nobody has done that.
      store.unwatched(() => write[name](value));
    },
    on(name: string, callback: () => void): () => void {
      if (name !== "theme") known(name, LISTEN);
      const stop =
        name === "theme" ? watchTheme(callback) : stopAll(LISTEN[name].map((key) => store.on(key, callback)));
      stops.push(stop);
      return stop;
    },
    async send(message: object): Promise<Reply> {
      const reply = await store.requests.ask({ type: "panel", panel, message });
      // A job that was stopped, or whose place a newer one has taken, has nothing to show.
      if (reply.content.cancelled) throw new Error("Stopped.");
      return reply;
    },
  };
  return { session, dispose: stopAll(stops) };
}

/** Where one coordinate is drawn on its way from before to after; NaN for a cell without a place. */
function between(from: number, to: number, t: number): number {
  if (from === MISSING || to === MISSING) return Number.NaN;
  return (from + (to - from) * t) / 65535;
}

function stopAll(stops: (() => void)[]): () => void {
  return () => {
    for (const stop of stops.splice(0)) stop();
  };
}
