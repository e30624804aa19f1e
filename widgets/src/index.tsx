/** The widget as anywidget wants it: shared state in `initialize`, one view per `render`, everything taken back after. */

import type { InitializeProps, RenderProps } from "@anywidget/types";
import { render as draw } from "preact";
import { useEffect, useState } from "preact/hooks";
import { App } from "./App.tsx";
import { keepFocus } from "./focus.ts";
import { ScopeContext } from "./hooks.ts";
import { isHosts } from "./keys.ts";
import type { Choice } from "./render/probe.ts";
import { standaloneModel } from "./standalone.ts";
import { type Model, Store } from "./store.ts";
import { currentTheme, watchTheme } from "./theme.ts";
import { View } from "./view.ts";
import "./style.css";

/** One store per bench, whatever the host hands to `initialize` and to each `render`. */
const stores = new Map<string, Store>();
let views = 0;

function storeOf(model: Model): Store {
  const uid = model.get("_uid");
  let store = stores.get(uid);
  if (!store) {
    store = new Store(model);
    stores.set(uid, store);
  }
  return store;
}

function Root({ view, root }: { view: View; root: HTMLElement }) {
  const [theme, setTheme] = useState(currentTheme);
  useEffect(() => watchTheme(setTheme), []);
  root.dataset.theme = theme;
  const asked = new URLSearchParams(location.search).get("scfm-renderer");
  const renderer: Choice = asked === "webgl2" || asked === "raster" ? asked : "auto";
  return (
    <ScopeContext.Provider value={{ store: view.store, theme, prefix: view.prefix, view }}>
      <App renderer={renderer} />
    </ScopeContext.Provider>
  );
}

function initialize({ model }: InitializeProps) {
  const store = storeOf(model as unknown as Model);
  return () => {
    store.dispose();
    stores.delete((model as unknown as Model).get("_uid"));
  };
}

/** Keys that work anywhere in the bench; a field that is typed in keeps its own. */
function shortcut(view: View, event: KeyboardEvent) {
  const { store } = view;
  const { target } = event;
  const typing =
    target instanceof HTMLInputElement &&
    target.type !== "range" &&
    target.type !== "checkbox" &&
    // Whoever has picked from the list types no more.
    target.getAttribute("aria-expanded") !== "false";
  if (typing || target instanceof HTMLTextAreaElement || event.defaultPrevented) return;
  const command = event.ctrlKey || event.metaKey;
  const key = event.key.toLowerCase();
  if (command && key === "z") event.shiftKey ? store.redo() : store.undo();
  else if (command && key === "y") store.redo();
  else if (!command && event.key === "?") view.open("keys");
  else if (!command && event.key === "Escape" && store.rooting) store.setRooting(false);
  else return;
  event.preventDefault();
}

/** The picture that stands in for a bench without a kernel steps back while this one lives. */
function hideStill(uid: string): () => void {
  const stills = [...document.querySelectorAll<HTMLElement>(".scfm-still")].filter(
    (still) => still.dataset.scfmBench === uid,
  );
  const places = stills.map((still) => still.closest<HTMLElement>(".jp-OutputArea-child") ?? still);
  for (const place of places) place.style.display = "none";
  return () => {
    for (const place of places) place.style.display = "";
  };
}

function render({ model, el }: RenderProps) {
  const store = storeOf(model as unknown as Model);
  const view = new View(store, `scfm-${++views}`);
  const root = document.createElement("div");
  root.className = "scfm-lab";
  root.dataset.theme = currentTheme();
  // JupyterLab looks for this attribute when a key arrives at the document, so it is set right before, at the window. It looks
  // at each element before it looks for its parent's attribute, and a notebook's keys are for whatever has the focus.
  const divide = (event: KeyboardEvent) => {
    if (!event.composedPath().includes(root)) return;
    for (const element of [root, event.target as Element])
      element.toggleAttribute("data-lm-suppress-shortcuts", !isHosts(event));
  };
  window.addEventListener("keydown", divide, true);
  const keep = (event: Event) => {
    if (event instanceof KeyboardEvent && isHosts(event)) return;
    event.stopPropagation();
    if (event.type === "keydown") shortcut(view, event as KeyboardEvent);
  };
  const kept = ["keydown", "keypress", "keyup", "contextmenu"] as const;
  for (const type of kept) root.addEventListener(type, keep);
  const tell = () => store.flush();
  root.addEventListener("focusout", tell);
  el.append(root);
  const showStill = hideStill((model as unknown as Model).get("_uid"));
  draw(<Root view={view} root={root} />, root);
  const letGo = keepFocus(root);
  return () => {
    letGo();
    draw(null, root);
    for (const type of kept) root.removeEventListener(type, keep);
    root.removeEventListener("focusout", tell);
    window.removeEventListener("keydown", divide, true);
    root.remove();
    showStill();
  };
}

const widget = { initialize, render };

declare global {
  /** Set by the page that is exported; see `scfm_widgets/export.py`. */
  var scfmLabPage: { payload: HTMLScriptElement; el: HTMLElement }[] | undefined;
}

for (const { payload, el } of globalThis.scfmLabPage ?? []) {
  void standaloneModel(payload.textContent ?? "").then((model) =>
    render({ model, el } as unknown as RenderProps),
  );
}

export default widget;
