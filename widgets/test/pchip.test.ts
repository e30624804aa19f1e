import { describe, expect, it } from "vitest";
import { between } from "../src/pchip.ts";

const DOSES = [0, 0.25, 0.5, 1, 1.5, 2];
const VALUES = [
  [60, 70, 95, 100, 111, 120],
  [9, 4, 4.5, 5, 7, 1],
  [3, 8, 2, 0, 6, 6.5],
];

describe("between doses", () => {
  // By scfm_lab.tasks.response_curves.interpolated, which is scipy's PchipInterpolator on either side of dose 1.
  it.each([
    [0.1, [62.5086, 6.124, 6.272]],
    [0.3, [74.2686, 4.0409, 7.4356]],
    [0.45, [92.2171, 4.4037, 2.8623]],
    [0.8, [99.2, 4.8665, 0.3465]],
    [1.2, [104.6496, 6.568, 3.2834]],
    [1.75, [115.7375, 5.25, 6.3654]],
  ])("gives at %d what Python gives", (dose, expected) => {
    const { value } = between(DOSES, dose);
    VALUES.forEach((values, i) => {
      expect(value((k) => values[k])).toBeCloseTo(expected[i], 3);
    });
  });

  it("gives computed values at computed doses, and the nearest beyond them", () => {
    DOSES.forEach((dose, k) => {
      expect(between(DOSES, dose).value((i) => VALUES[2][i])).toBe(VALUES[2][k]);
    });
    expect(between(DOSES, 2.5).value((i) => VALUES[0][i])).toBe(120);
  });

  it("never overshoots", () => {
    for (const values of VALUES) {
      for (let dose = 0; dose <= 2; dose += 0.01) {
        const { below, above, value } = between(DOSES, dose);
        const found = value((k) => values[k]);
        expect(found).toBeGreaterThanOrEqual(Math.min(values[below], values[above]) - 1e-9);
        expect(found).toBeLessThanOrEqual(Math.max(values[below], values[above]) + 1e-9);
      }
    }
  });

  it("is a straight line between two doses alone", () => {
    expect(between([0, 1], 0.25).value((k) => [8, 0][k])).toBe(6);
  });
});
