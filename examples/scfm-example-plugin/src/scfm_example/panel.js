// Module scores of the selected cells against all, and a click that selects the cells in which a module is high.
// No imports; names go in as text, never as HTML; colours are the bench's, so that light and dark are followed.
const STYLE = `
  .modules { width: 100%; border-collapse: collapse; font-size: 12px; color: var(--sl-ink); }
  .modules td { padding: 2px 6px 2px 0; }
  .modules button { all: unset; cursor: pointer; color: var(--sl-accent); }
  .modules button:focus-visible { outline: 2px solid var(--sl-accent); }
  .track { position: relative; height: 10px; background: var(--sl-sunken); border-radius: 3px; }
  .here { position: absolute; inset: 0 auto 0 0; background: var(--sl-accent); border-radius: 3px; }
  .all { position: absolute; top: -2px; bottom: -2px; width: 2px; background: var(--sl-ink); }
  .note { color: var(--sl-muted); font-size: 12px; margin: 0 0 6px; }
`;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function render({ session, el }) {
  const style = element("style", "", STYLE);
  const note = element("p", "note");
  note.setAttribute("aria-live", "polite");
  const table = element("table", "modules");
  el.append(style, note, table);
  let asked = 0;

  function row(name, value, base, top) {
    const line = table.insertRow();
    const pick = element("button", "", name);
    pick.title = `Select the cells in which ${name} is among the highest tenth`;
    pick.addEventListener("click", () => choose(name));
    line.insertCell().append(pick);
    const cell = line.insertCell();
    cell.style.width = "55%";
    const track = element("div", "track");
    track.title = `${value.toFixed(2)} here, ${base.toFixed(2)} in all cells`;
    const here = element("div", "here");
    here.style.width = `${(100 * value) / top}%`;
    const all = element("div", "all");
    all.style.left = `${(100 * base) / top}%`;
    track.append(here, all);
    cell.append(track);
    line.insertCell().textContent = value.toFixed(2);
  }

  // A buffer comes back for what is large: one byte for each cell.
  async function choose(name) {
    try {
      const { buffers } = await session.send({ of: "highest", module: name });
      const [view] = buffers;
      session.set("selection", new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
    } catch (error) {
      note.textContent = error.message;
    }
  }

  async function show() {
    const mine = ++asked;
    try {
      const { content } = await session.send({ of: "selection" });
      // A newer question was asked meanwhile: its answer is the one to show.
      if (mine !== asked) return;
      note.textContent = `${content.n} of ${session.get("n")} cells; the line marks the mean of all.`;
      table.replaceChildren();
      const top = Math.max(...content.selected, ...content.all, 1e-6);
      content.modules.forEach((name, i) => row(name, content.selected[i], content.all[i], top));
    } catch (error) {
      // Also of a question whose place a newer one has taken.
      if (mine === asked) note.textContent = error.message;
    }
  }

  show();
  const stop = session.on("selection", show);
  return () => {
    asked = -1;
    stop();
    el.replaceChildren();
  };
}
