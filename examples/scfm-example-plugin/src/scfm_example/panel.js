// Bars of module scores: the selected cells against all. No imports; text goes in as text, never as HTML.
export function render({ session, el }) {
  const title = document.createElement("p");
  const table = document.createElement("table");
  table.style.cssText = "width:100%;border-collapse:collapse;color:var(--sl-ink)";
  el.append(title, table);
  let asked = 0;

  function row(name, value, base, top) {
    const line = table.insertRow();
    line.insertCell().textContent = name;
    const cell = line.insertCell();
    cell.style.width = "60%";
    const bar = document.createElement("div");
    bar.style.cssText = "height:.7em;background:var(--sl-accent)";
    bar.style.width = `${(100 * value) / top}%`;
    bar.title = `${value.toFixed(2)} here, ${base.toFixed(2)} in all cells`;
    cell.append(bar);
  }

  async function show() {
    const mine = ++asked;
    try {
      const { content } = await session.send({ of: "selection" });
      // A newer question was asked meanwhile: its answer is the one to show.
      if (mine !== asked) return;
      title.textContent = `Gene modules in ${content.n} cells`;
      table.replaceChildren();
      const top = Math.max(...content.selected, ...content.all, 1e-6);
      content.modules.forEach((name, i) => row(name, content.selected[i], content.all[i], top));
    } catch (error) {
      title.textContent = error.message;
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
