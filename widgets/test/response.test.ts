import { describe, expect, it } from "vitest";
import { besideNull, testedOf } from "../src/reducers.ts";
import { addUp, respond, respondTo } from "../src/response.ts";
import { BEFORE, effect, perturbation, responses } from "./bench.ts";

const known = responses("CD3D");

describe("respond", () => {
  it("gives a computed dose as it was computed", () => {
    const found = respond(known, { CD3D: 0 })!;
    expect(found.after[2]).toBe(60);
    expect(found.perturbation.interpolated).toBeUndefined();
  });

  it("interpolates between two computed doses, and says so", () => {
    const found = respond(known, { CD3D: 1.5 })!;
    expect(found.after[2]).toBe(110);
    expect(found.perturbation.rows[0].effect).toBe(1);
    expect(found.perturbation.interpolated).toBe(true);
    expect(found.perturbation.rows[0].p_value).toBeNull();
  });

  it("never goes beyond what was computed", () => {
    expect(respond(known.slice(0, 2), { CD3D: 2 })!.after[2]).toBe(100);
  });

  it("has nothing to say where nothing changes, or of a gene it does not know", () => {
    expect(respond(known, { CD3D: 1 })).toBeNull();
    expect(respond(known, {})).toBeNull();
    expect(respond(known, { LYZ: 0 })).toBeNull();
  });

  it("leaves cells that no computed dose moves where they are", () => {
    for (const dose of [0, 0.3, 1.7, 2]) {
      const { after } = respond(known, { CD3D: dose })!;
      expect([after[0], after[4], after[6]]).toEqual([0, 200, 65535]);
    }
  });
});

describe("respondTo", () => {
  it("keeps all doses in what it tells, those of other genes too", () => {
    expect(respondTo(known, "CD3D", { LYZ: 0.5, CD3D: 0.5 })!.perturbation.doses).toEqual({
      LYZ: 0.5,
      CD3D: 0.5,
    });
  });

  it("takes groups by name, whatever their order", () => {
    const low = {
      ...known[0],
      perturbation: perturbation("CD3D", 0, [effect("CD3D", "T", 8), effect("CD3D", "B", 2)]),
    };
    const high = {
      ...known[1],
      perturbation: perturbation("CD3D", 1, [effect("CD3D", "B", 0), effect("CD3D", "T", 0)]),
    };
    const rows = respondTo([low, high], "CD3D", { CD3D: 0.5 })!.perturbation.rows;
    expect(Object.fromEntries(rows.map(({ group, effect: value }) => [group, value]))).toEqual({
      B: 1,
      T: 4,
    });
  });
});

describe("several genes", () => {
  const both = [...responses("CD3D"), ...responses("LYZ")];
  const nothing = { doses: {}, places: BEFORE, perturbation: null };

  it("start from the sum of their movements", () => {
    expect(addUp(both, nothing, { CD3D: 0, LYZ: 2 })!.after![2]).toBe(80);
    expect(addUp(both, nothing, { CD3D: 0, LYZ: 0 })!.after![2]).toBe(20);
  });

  it("go on from the exact answer, of which only what turns is changed", () => {
    const places = BEFORE.slice();
    // Together they do less than both alone.
    places[2] = 50;
    const rows = [effect("CD3D+LYZ", "all", 5)];
    const exact = perturbation("CD3D", 0, rows);
    const known = { doses: { CD3D: 0, LYZ: 0 }, places, perturbation: exact };
    const found = addUp(both, known, { CD3D: 0, LYZ: 1 })!;
    expect(found.after![2]).toBe(90);
    expect(found.perturbation!.rows[0].effect).toBe(1);
    expect(found.perturbation!.doses).toEqual({ CD3D: 0, LYZ: 1 });
    expect(addUp(both, known, { CD3D: 0, LYZ: 0 })!.after![2]).toBe(50);
  });

  it("are of all cells and stand beside no null while they are estimated, whatever was tested before", () => {
    const tested = { effect_tested: 3, n_cells: 700, n_tested: 200, null_low: 1, null_high: 2 };
    const exact = perturbation("CD3D", 0, [effect("CD3D", "all", 4, tested)]);
    for (const told of ["ready", "pending", "stopped"] as const) {
      const known = { doses: { CD3D: 0 }, places: BEFORE, perturbation: { ...exact, null: told } };
      const found = addUp(both, known, { CD3D: 0, LYZ: 0 })!.perturbation!;
      const [row] = found.rows;
      // The knockout of LYZ adds 4 to what the knockout of CD3D did over all cells.
      expect([besideNull(row), testedOf(row), found.null]).toEqual([8, 0, "none"]);
    }
  });

  it("say nothing of what the curves do not hold, once a slider has moved", () => {
    const rows = [effect("CD3D", "all", 4), effect("CD3D", "all", 2, { readout: "towards_target" })];
    const known = { doses: { CD3D: 0 }, places: BEFORE, perturbation: perturbation("CD3D", 0, rows) };
    const told = (doses: Record<string, number>) =>
      addUp(both, known, doses)!.perturbation!.rows.map((row) => row.effect);
    expect(told({ CD3D: 0 })).toEqual([4, 2]);
    expect(told({ CD3D: 0, LYZ: 0 })).toEqual([8, null]);
  });

  it("have no answer where one of them has no curve that far", () => {
    expect(addUp(responses("CD3D"), nothing, { CD3D: 0, LYZ: 0 })).toBeNull();
    expect(addUp(both.slice(0, 5), nothing, { CD3D: 0, LYZ: 2 })).toBeNull();
  });

  it("stay on the plane", () => {
    const places = BEFORE.slice();
    places[2] = 10;
    const known = { doses: { CD3D: 0.99 }, places, perturbation: perturbation("CD3D", 0.99, []) };
    expect(addUp(both, known, { CD3D: 0.99, LYZ: 0 })!.after![2]).toBe(0);
  });
});
