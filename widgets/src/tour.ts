/** Three hints for a first visit, and which of them is due after what somebody has done. */

export const HINTS = [
  { at: "models", text: "Pick a model. Each says what it needs and whether it fits this machine." },
  { at: "stage", text: "Colour the cells by any column or gene, and draw a lasso to select some." },
  { at: "perturb", text: "In Perturb, add a gene and turn its dose: the cells move while you turn it." },
] as const;
type Place = (typeof HINTS)[number]["at"];

/** At what somebody works who has set this. */
const PLACES: Readonly<Record<string, Place>> = {
  model: "models",
  ...Object.fromEntries(["colour", "hidden", "range", "layout", "selection"].map((what) => [what, "stage"])),
  doses: "perturb",
};
/** How the same cells are drawn: no step on the way, and none aside. */
const LOOKS: readonly string[] = ["labels", "density", "second"];
/** Panels that a hint stands beside. */
const PANELS: Readonly<Record<string, Place>> = {
  models: "models",
  perturb: "perturb",
  screen: "perturb",
};

function nth(place: Place | undefined): number {
  return HINTS.findIndex(({ at }) => at === place);
}

/**
 * The hint that is due once something has been set by hand; `HINTS.length` once none is. Who does what a hint says needs it no
 * more; who goes another way needs none: they lie over what that person works at.
 *
 * @param what names of what was set: fields of the state, "selection", "doses"
 * @param panel the panel that is open now, where that is what was set
 */
export function hintAfter(step: number, what: readonly string[], panel: string | null = null): number {
  const steps = what
    .filter((name) => !LOOKS.includes(name))
    .map((name) => {
      if (name === "panel") {
        const at = nth(PANELS[panel ?? ""]);
        return at < 0 || at < step - 1 ? HINTS.length : Math.max(step, at);
      }
      const at = nth(PLACES[name]);
      // More of what the last hint said is no other way.
      return at < step - 1 ? HINTS.length : Math.max(step, at + 1);
    });
  return Math.max(step, ...steps);
}

const ENDED = "scfm-lab.tour-ended";

/** Tell every bench on the page that the hints are over. Each has a module of its own: they share the page only. */
export function tellOver(page: EventTarget = window) {
  page.dispatchEvent(new Event(ENDED));
}

/** Be told by whichever bench on the page ends the hints; gives what stops that. */
export function onOver(callback: () => void, page: EventTarget = window): () => void {
  page.addEventListener(ENDED, callback);
  return () => page.removeEventListener(ENDED, callback);
}
