/** Three hints for a first visit. Closed, heeded or passed by, they never come back. */

import { useLayoutEffect, useState } from "preact/hooks";
import { useStore } from "../hooks.ts";
import { sidePanels } from "../reducers.ts";
import { HINTS, hintAfter, onOver, tellOver } from "../tour.ts";

const SEEN = "scfm-lab.tour";

function seen(): boolean {
  try {
    return localStorage.getItem(SEEN) !== null;
  } catch {
    // A frame without storage: Python remembers.
    return false;
  }
}

export function Tour() {
  const store = useStore("_meta");
  const [step, setStep] = useState(0);
  const [done, setDone] = useState(seen);
  const meta = store.get("_meta");
  const shown = !done && !!meta.tour && !meta.static;
  useLayoutEffect(() => onOver(() => setDone(true)), []);
  const end = () => {
    tellOver();
    setDone(true);
    try {
      localStorage.setItem(SEEN, "1");
    } catch {
      // Python remembers.
    }
    void store.act({ type: "tour" });
  };
  const go = (next: number) => (next < HINTS.length ? setStep(next) : end());
  useLayoutEffect(() => {
    if (!shown) return;
    return store.onAct((what) => {
      const { current, screening } = sidePanels(store.get("_panels") ?? [], store.state.panel);
      go(hintAfter(step, what, screening ? "screen" : (current?.component ?? null)));
    });
  }, [store, shown, step]);
  if (!shown) return null;
  const last = step === HINTS.length - 1;
  return (
    <aside class={`sl-tour sl-tour-${HINTS[step].at}`} aria-label="Hints for a first visit">
      <p aria-live="polite">{HINTS[step].text}</p>
      <div class="sl-tour-foot">
        <span class="sl-muted">
          {step + 1} of {HINTS.length}
        </span>
        <span class="sl-spring" />
        <button type="button" class="sl-link" onClick={end}>
          No hints
        </button>
        <button type="button" class="sl-button sl-primary sl-small" onClick={() => go(step + 1)}>
          {last ? "Done" : "Next"}
        </button>
      </div>
    </aside>
  );
}
