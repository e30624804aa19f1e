import { describe, expect, it } from "vitest";
import * as format from "../src/format.ts";
import { arranged } from "../src/panels/Lineage.tsx";
import { beyondRange } from "../src/range.ts";
import { legendRows, shownValues } from "../src/stage/figure.ts";
import { SvgPen } from "../src/stage/svgpen.ts";
import type { Column } from "../src/types.ts";

function column(groups: number, missing = 0): Column {
  const labels = Array.from({ length: groups }, (_, i) => `group ${i}`);
  return { key: "k", kind: "category", labels, missing, title: "t", codes: new Uint8Array(0) };
}

describe("the legend of a picture", () => {
  it("holds every group that is shown, in columns", () => {
    const { shown, more, perColumn } = legendRows(column(50, 3), null, 19 * 24);
    expect([shown.length, more, perColumn]).toEqual([51, 0, 24]);
    expect(shown.at(-1)!.label).toBe("(no value)");
  });

  it("leaves out what is hidden and counts what finds no room", () => {
    const hidden = Uint8Array.of(1, 1);
    const { shown, more } = legendRows(column(250), hidden, 19 * 24);
    expect(shown[0].label).toBe("group 2");
    expect(shown.length + more).toBe(248);
    expect(more).toBe(248 - 4 * 24);
  });
});

it("a picture of some of the values says which", () => {
  const numbers: Column = { ...column(0), kind: "number", min: 0, max: 254 };
  expect(shownValues(numbers, null)).toBeNull();
  expect(shownValues(numbers, beyondRange([20, 100], numbers))).toEqual(["20", "100"]);
});

describe("a picture's pen", () => {
  const pen = () => new SvgPen((text) => ({ width: 7 * text.length }) as TextMetrics);

  it("keeps words as text that cannot become elements", () => {
    const drawn = pen();
    drawn.font = "600 12px system-ui, sans-serif";
    drawn.textAlign = "center";
    drawn.fillStyle = "#123456";
    drawn.fillText("<b>T & B</b>", 10, 20.004);
    expect(drawn.toString()).toBe(
      '<text x="10" y="20" font-size="12" font-weight="600" text-anchor="middle" fill="#123456">&#60;b&#62;T &#38; B&#60;/b&#62;</text>',
    );
  });

  it("writes colours and see-through as older programs read them, and circles whole", () => {
    const drawn = pen();
    drawn.strokeStyle = "rgb(255 255 255 / 0.88)";
    drawn.globalAlpha = 0.5;
    drawn.beginPath();
    drawn.arc(10, 10, 4);
    drawn.stroke();
    const svg = drawn.toString();
    expect(svg).toContain('stroke="rgb(255,255,255)" stroke-opacity="0.88"');
    expect(svg).toContain('opacity="0.5"');
    expect(svg).toContain("M14 10a4 4 0 1 0 -8 0a4 4 0 1 0 8 0Z");
  });

  it("puts nothing down for a path without points", () => {
    const drawn = pen();
    drawn.beginPath();
    drawn.stroke();
    expect(drawn.toString()).toBe("");
  });
});

describe("a lineage", () => {
  it("never lays two boxes over each other, however many siblings there are", () => {
    const nodes = Array.from({ length: 6 }, (_, i) => ({ id: `n${i}` }));
    const depth = new Map(nodes.map(({ id }, i) => [id, i === 0 ? 0 : 1]));
    const { width, place } = arranged(nodes, depth);
    const xs = nodes.slice(1).map(({ id }) => place.get(id)![0]);
    for (let i = 1; i < xs.length; i++) expect(xs[i] - xs[i - 1]).toBeGreaterThan(124);
    expect(Math.max(...xs) + 62).toBeLessThanOrEqual(width);
  });
});

describe("a speed", () => {
  it("says what it counts", () => {
    expect(format.rate(1234.4)).toBe("1,234 cells/s");
    expect(format.rate(9.94)).toBe("9.9 cells/s");
    expect(format.rate(9.96)).toBe("10 cells/s");
    expect(format.rate(51_200, "genes × cells")).toBe("51,200 genes × cells/s");
    expect(format.rate(null)).toBe("");
  });

  it("of less than one a second is not one", () => {
    expect(format.rate(0.384, "genes")).toBe("0.38 genes/s");
    expect(format.rate(0.0021, "genes")).toBe("0.0021 genes/s");
    expect(format.rate(1.26, "doses")).toBe("1.3 doses/s");
  });

  it("of one is of one", () => {
    expect(format.rate(1.004, "genes")).toBe("1 gene/s");
    expect(format.rate(1, "genes × cells")).toBe("1 gene × cell/s");
    expect(format.rate(1, "MiB")).toBe("1 MiB/s");
  });
});
