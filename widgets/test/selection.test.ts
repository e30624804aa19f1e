import { describe, expect, it } from "vitest";
import { combine, inverted, isCalled, ofClass, shownCells } from "../src/reducers.ts";

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
