/** The store in components. */

import { createContext } from "preact";
import { useContext, useEffect, useLayoutEffect, useReducer, useState } from "preact/hooks";
import type { Theme } from "./palette.ts";
import type { Key, Store } from "./store.ts";
import type { View } from "./view.ts";

/** Milliseconds without an answer after which the kernel is said to be busy or gone. */
const QUIET_MS = 4000;

export interface Scope {
  store: Store;
  theme: Theme;
  /** Unique within the page: the start of every element id of this view. */
  prefix: string;
  view: View;
}

export const ScopeContext = createContext<Scope | null>(null);

export function useScope(): Scope {
  const scope = useContext(ScopeContext);
  if (!scope) throw new Error("a bench's component outside of a bench");
  return scope;
}

/** The store; the component is drawn again when one of `keys` changes. */
export function useStore(...keys: Key[]): Store {
  const { store } = useScope();
  const [, redraw] = useReducer<number, void>((version) => version + 1, 0);
  useEffect(() => {
    const stops = keys.map((key) => store.on(key, () => redraw()));
    // Something may have changed between drawing and listening.
    redraw();
    return () => {
      for (const stop of stops) stop();
    };
  }, [store]);
  return store;
}

/** As `useState`, for what outlasts the panel that shows it: one value for the bench, as doses and the selection are. */
export function useKept<T>(name: string, initial: T): [T, (value: T) => void] {
  const store = useStore("kept");
  return [store.kept(name, initial), (value) => store.keep(name, value)];
}

/** Whether the kernel has not answered for a while. */
export function useQuiet(): boolean {
  const { store } = useScope();
  const [quiet, setQuiet] = useState(false);
  useEffect(() => store.on("waiting", () => setQuiet(store.silence > QUIET_MS)), [store]);
  return quiet;
}

/** What lies over this view of the bench. */
export function useDialog(): string | null {
  const { view } = useScope();
  const [, redraw] = useReducer<number, void>((version) => version + 1, 0);
  useLayoutEffect(() => view.onDialog(() => redraw()), [view]);
  return view.dialog;
}
