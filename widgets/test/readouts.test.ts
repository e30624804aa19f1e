import { describe, expect, it } from "vitest";
import { readoutName, readoutShown, readoutsOf, readoutWords } from "../src/readouts.ts";
import { effect } from "./bench.ts";

const rows = ["shift", "towards_target", "label"].flatMap((readout) =>
  ["all", "B"].map((group) => effect("CD3D", group, 1, { readout })),
);

describe("read-outs", () => {
  it("begin with the target, where somebody has named one", () => {
    expect(readoutsOf(rows)).toEqual(["towards_target", "shift", "label"]);
    expect(readoutsOf(rows.filter(({ readout }) => readout !== "towards_target"))).toEqual([
      "shift",
      "label",
    ]);
  });

  it("are shown as picked, as long as there is one of that name", () => {
    expect(readoutShown(readoutsOf(rows), null)).toBe("towards_target");
    expect(readoutShown(readoutsOf(rows), "label")).toBe("label");
    expect(readoutShown(readoutsOf(rows), "expression")).toBe("towards_target");
  });

  it("are said in words, with the target", () => {
    expect(readoutName("towards_target", "B cells")).toBe("Towards B cells");
    expect(readoutWords("towards_target", "B cells")).toBe("mean movement towards B cells (negative: away)");
    expect(readoutWords("shift")).toBe("mean shift");
    expect(readoutWords("entropy")).toBe("mean entropy");
  });
});
