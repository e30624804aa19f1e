import { describe, expect, it } from "vitest";
import { boxOutline, insideTest, selectInside, thin, winding } from "../src/lasso.ts";

const square = Float64Array.of(0, 0, 1, 0, 1, 1, 0, 1);

/** A generator of the same numbers in each run. */
function seeded(seed: number) {
  let state = seed;
  return () => {
    state = (state * 1664525 + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

describe("winding", () => {
  it("is 1 inside, -1 inside of an outline that runs the other way, 0 outside", () => {
    expect(winding(square, 0.5, 0.5)).toBe(1);
    expect(winding(Float64Array.of(0, 0, 0, 1, 1, 1, 1, 0), 0.5, 0.5)).toBe(-1);
    expect(winding(square, 1.5, 0.5)).toBe(0);
  });

  it("is 2 where a lasso goes round twice", () => {
    const twice = Float64Array.of(0, 0, 1, 0, 1, 1, 0, 1, 0, 0, 1, 0, 1, 1, 0, 1);
    expect(winding(twice, 0.5, 0.5)).toBe(2);
  });
});

describe("insideTest", () => {
  it("keeps what a loop drawn over itself encloses, where even-odd would cut a hole", () => {
    // Two overlapping squares drawn in one stroke; the overlap is wound twice.
    const stroke = Float64Array.of(0, 0, 2, 0, 2, 2, 0, 2, 0, 0, 1, 1, 3, 1, 3, 3, 1, 3, 1, 1);
    const inside = insideTest(stroke);
    expect(inside(1.5, 1.5)).toBe(true);
    expect(inside(0.5, 1.2)).toBe(true);
    expect(inside(2.5, 2.5)).toBe(true);
    expect(inside(2.5, 0.5)).toBe(false);
  });

  it("agrees with the winding number of every edge for many points and a ragged outline", () => {
    const random = seeded(7);
    const outline = Float64Array.from({ length: 400 }, (_, i) => {
      const angle = (2 * Math.PI * (i >> 1)) / 200;
      const radius = 0.3 + 0.2 * random();
      return 0.5 + radius * (i % 2 ? Math.sin(angle) : Math.cos(angle));
    });
    const inside = insideTest(outline);
    let hits = 0;
    for (let k = 0; k < 20_000; k++) {
      const [x, y] = [random(), random()];
      expect(inside(x, y)).toBe(winding(outline, x, y) !== 0);
      hits += inside(x, y) ? 1 : 0;
    }
    expect(hits).toBeGreaterThan(5000);
  });

  it("counts a point on a shared edge of two boxes once", () => {
    const left = insideTest(boxOutline(0, 0, 1, 1));
    const right = insideTest(boxOutline(1, 0, 2, 1));
    for (const y of [0.25, 0.5, 0.75]) expect(Number(left(1, y)) + Number(right(1, y))).toBe(1);
  });

  it("holds nothing in a line, a point, or nothing at all", () => {
    for (const outline of [[], [0, 0], [0, 0, 1, 1], [0, 0, 1, 0, 2, 0]]) {
      expect(insideTest(Float64Array.from(outline))(0, 0)).toBe(false);
    }
  });
});

describe("selectInside", () => {
  const places = Float32Array.of(0.5, 0.5, 1.5, 0.5, Number.NaN, 0.5, 0.2, 0.9);

  it("marks the cells inside; a cell without a place is outside", () => {
    expect(Array.from(selectInside(places, square, null))).toEqual([1, 0, 0, 1]);
  });

  it("leaves out cells that are hidden by the legend", () => {
    expect(Array.from(selectInside(places, square, Uint8Array.of(0, 1, 1, 1)))).toEqual([0, 0, 0, 1]);
  });

  it("is the same for a box drawn from either corner", () => {
    const drawn = selectInside(places, boxOutline(0, 0, 1, 1), null);
    expect(selectInside(places, boxOutline(1, 1, 0, 0), null)).toEqual(drawn);
  });
});

describe("thin", () => {
  it("drops points that lie close together and keeps first and last", () => {
    const path = [0, 0, 0.5, 0, 1, 0, 5, 0, 5.2, 0];
    expect(Array.from(thin(path, 2))).toEqual([0, 0, 5, 0, 5.2, 0]);
  });
});
