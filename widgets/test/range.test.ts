import { describe, expect, it } from "vitest";
import { beyondRange, codesOf, moved, rangeOf, withRange } from "../src/range.ts";
import type { SessionState } from "../src/types.ts";

const column = { min: 2, max: 12 };

describe("a range of values", () => {
  it("is the same after it was kept in values and read again, at every step of the bar", () => {
    for (let low = 0; low <= 254; low += 7)
      for (let high = low; high <= 254; high += 13) {
        const kept = rangeOf([low, high], column);
        expect(codesOf(kept, column)).toEqual([low, high]);
      }
  });

  it("is none where all is shown, and reaches no further than the scale", () => {
    expect(rangeOf([0, 254], column)).toBeNull();
    expect(codesOf(null, column)).toEqual([0, 254]);
    expect(codesOf([-5, 99], column)).toEqual([0, 254]);
    expect(codesOf([1, 2], { min: 3, max: 3 })).toEqual([0, 0]);
  });

  it("hides what lies beyond it, and cells without a value", () => {
    const flags = beyondRange([2, 7], column);
    expect([flags[0], flags[127], flags[128], flags[254], flags[255]]).toEqual([0, 0, 1, 1, 1]);
  });

  it("has two thumbs that do not pass each other", () => {
    expect(moved([10, 20], "low", 99)).toEqual([20, 20]);
    expect(moved([10, 20], "high", 3)).toEqual([10, 10]);
  });

  it("goes with the colour that it was a range of", () => {
    const colour = { by: "gene", name: "LYZ" } as const;
    const now = { colour, range: [1, 2] } as unknown as SessionState;
    expect(withRange({ colour: { by: "gene", name: "CD3D" } }, now).range).toBeNull();
    expect(withRange({ colour: { ...colour } }, now)).not.toHaveProperty("range");
    expect(withRange({ labels: false }, now)).not.toHaveProperty("range");
    expect(withRange({ colour: null, range: [3, 4] }, now).range).toEqual([3, 4]);
  });
});
