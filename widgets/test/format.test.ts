import { describe, expect, it } from "vitest";
import * as format from "../src/format.ts";

describe("how far work is", () => {
  it("is told with what is counted and the time left", () => {
    expect(format.progress({ done: 1200, total: 6000, unit: "genes", left: 20.4 })).toBe(
      "1,200 of 6,000 genes, 20 s left",
    );
    expect(format.progress({ done: 3, total: 60, unit: "genes", left: null })).toBe("3 of 60 genes");
  });

  it("is not told before it is known", () => {
    expect(format.progress({ done: 0, total: 0, left: null })).toBe("");
    expect(format.progress(null)).toBe("");
  });
});
