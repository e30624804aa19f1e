import { describe, expect, it } from "vitest";
import { combine, inverted, isCalled, ofClass, shownCells, sidePanels } from "../src/reducers.ts";

const PLACES = Uint16Array.of(0, 0, 9, 9, 5, 5, 65535, 65535);
const CODES = Uint8Array.of(0, 1, 1, 0);

describe("selecting without drawing", () => {
  it("takes what is shown: no hidden group, no cell without a place", () => {
    expect([...shownCells(PLACES, null, null)]).toEqual([1, 1, 1, 0]);
    expect([...shownCells(PLACES, CODES, Uint8Array.of(0, 1))]).toEqual([1, 0, 0, 0]);
  });

  it("inverts among what is shown, and twice is what it was", () => {
    const shown = shownCells(PLACES, null, null);
    const once = inverted(Uint8Array.of(1, 0, 0, 0), shown);
    expect([...once]).toEqual([0, 1, 1, 0]);
    expect([...inverted(once, shown)]).toEqual([1, 0, 0, 0]);
  });

  it("takes a group, adds one and takes one away", () => {
    const first = combine(new Uint8Array(4), ofClass(CODES, 1), "replace");
    expect([...first]).toEqual([0, 1, 1, 0]);
    const both = combine(first, ofClass(CODES, 0), "add");
    expect([...both]).toEqual([1, 1, 1, 1]);
    expect([...combine(both, ofClass(CODES, 1), "subtract")]).toEqual([1, 0, 0, 1]);
  });
});

describe("a panel", () => {
  const panel = { id: "scfm.perturb", component: "perturb", title: "Perturb" };

  it("is found by its id and by what people call it", () => {
    for (const name of ["scfm.perturb", "perturb", "Perturb"]) expect(isCalled(panel, name), name).toBe(true);
    for (const name of [null, "run"]) expect(isCalled(panel, name), String(name)).toBe(false);
  });
});

describe("the panel that is open", () => {
  const panel = (component: string, error: string | null = null) => ({
    id: `scfm-widgets.${component}`,
    component,
    title: component[0].toUpperCase() + component.slice(1),
    error,
  });
  const panels = ["models", "embedding", "perturb", "screen"].map((name) => panel(name));

  it("is the one that is named, or the first", () => {
    expect(sidePanels(panels, "Perturb")).toMatchObject({
      current: { component: "perturb" },
      screening: false,
    });
    expect(sidePanels(panels, null).current.component).toBe("models");
    expect(sidePanels(panels, "scfm-widgets.gone").current.component).toBe("models");
    expect(sidePanels(panels, null).side.map(({ component }) => component)).toEqual(["models", "perturb"]);
  });

  it("is Perturb with its screen where the screen is named", () => {
    for (const name of ["screen", "Screen", "scfm-widgets.screen"])
      expect(sidePanels(panels, name)).toMatchObject({ current: { component: "perturb" }, screening: true });
    const failed = [...panels.slice(0, 3), panel("screen", "It failed.")];
    expect(sidePanels(failed, "screen")).toMatchObject({
      current: { component: "models" },
      screening: false,
    });
  });
});
