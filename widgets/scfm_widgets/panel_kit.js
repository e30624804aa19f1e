// Mounts one panel as the bench does (docs/panels.md), for scfm_lab.testing.check_panel. Python gives `esm`, `css` and the
// session's values, answers `kitSend`, and asks for the steps below one after the other.
const LISTENED = ["state", "model", "doses", "selection", "positions", "job", "n", "theme"];

export function kit(given, send) {
  const listeners = new Map(LISTENED.map((name) => [name, new Set()]));
  const values = {
    ...given.values,
    selection: () => Uint8Array.from(given.values.selection),
    positions: () => Float32Array.from(given.values.positions),
  };
  const written = [];
  let theme = "light";
  let mounted = null;

  function read(name) {
    const value = values[name];
    if (value === undefined) throw new Error(`session has no "${name}"`);
    return typeof value === "function" ? value() : structuredClone(value);
  }

  const session = {
    version: given.version,
    get theme() {
      return theme;
    },
    get: read,
    set(name, value) {
      if (!["state", "doses", "selection"].includes(name)) throw new Error(`session has no "${name}" to set`);
      written.push(name);
      values[name] = name === "selection" ? () => Uint8Array.from(value) : { ...read(name), ...value };
      tell(name);
    },
    on(name, callback) {
      const set = listeners.get(name);
      if (!set) throw new Error(`session has no "${name}"`);
      set.add(callback);
      return () => set.delete(callback);
    },
    async send(message) {
      const reply = await send(structuredClone(message));
      if (reply.error) throw new Error(reply.error);
      const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      return { content: reply.content, buffers: reply.buffers.map((text) => new DataView(bytes(text).buffer)) };
    },
  };

  function tell(name) {
    for (const callback of [...listeners.get(name)]) callback();
  }

  // A panel is given the widget's model too; its traits are private, so there is nothing to read.
  const model = { get: () => undefined, set() {}, save_changes() {}, on() {}, off() {}, send() {} };

  return {
    async mount() {
      const el = document.createElement("div");
      document.body.append(el);
      const url = URL.createObjectURL(new Blob([given.esm], { type: "text/javascript" }));
      let module;
      try {
        module = await import(url);
      } finally {
        URL.revokeObjectURL(url);
      }
      const render = module.render ?? module.default?.render;
      if (typeof render !== "function") throw new Error("the module exports no render function");
      const cleanup = await render({ model, session, el });
      if (cleanup !== undefined && cleanup !== null && typeof cleanup !== "function")
        throw new Error(`render returned a ${typeof cleanup}; it may return a function that cleans up, or nothing`);
      mounted = { el, cleanup };
    },
    /** Whether the panel shows anything. */
    drawn() {
      return mounted.el.childNodes.length > 0;
    },
    /** Everything a panel may listen to happens once. */
    async disturb() {
      theme = theme === "light" ? "dark" : "light";
      const n = given.values.n;
      values.selection = () => Uint8Array.from({ length: n }, (_, i) => i % 2);
      for (const name of LISTENED) tell(name);
      await new Promise((done) => setTimeout(done, 50));
      return written;
    },
    async unmount() {
      const { el, cleanup } = mounted;
      mounted = null;
      for (const set of listeners.values()) set.clear();
      await cleanup?.();
      el.remove();
      await new Promise((done) => setTimeout(done, 0));
    },
    /** What is outside the panel's own element, to see whether anything stayed. */
    surroundings() {
      return { elements: document.querySelectorAll("*").length, globals: Object.keys(window).length };
    },
  };
}
