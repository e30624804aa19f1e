/** Three hints for a first visit. Closed or finished, they never come back. */

import { useState } from "preact/hooks";
import { useStore } from "../hooks.ts";

const HINTS = [
  { at: "models", text: "Pick a model. Each says what it needs and whether it fits this machine." },
  { at: "stage", text: "Colour the cells by any column or gene, and draw a lasso to select some." },
  { at: "perturb", text: "In Perturb, add a gene and turn its dose: the cells move while you turn it." },
];
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
  if (done || !meta.tour || meta.static) return null;
  const end = () => {
    setDone(true);
    try {
      localStorage.setItem(SEEN, "1");
    } catch {
      // Python remembers.
    }
    void store.act({ type: "tour" });
  };
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
        <button
          type="button"
          class="sl-button sl-primary sl-small"
          onClick={() => (last ? end() : setStep(step + 1))}
        >
          {last ? "Done" : "Next"}
        </button>
      </div>
    </aside>
  );
}
