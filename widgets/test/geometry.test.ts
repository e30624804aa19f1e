import { describe, expect, it } from "vitest";
import { nearPath } from "../src/lasso.ts";
import { depths } from "../src/panels/Lineage.tsx";
import { gather } from "../src/stage/field.ts";
import { escapeXml } from "../src/stage/svgpen.ts";
import { trend, trendOnce } from "../src/trend.ts";
import { blocks } from "../src/ui/Markdown.tsx";

describe("the brush", () => {
  const path = Float64Array.of(0, 0, 1, 0, 1, 1);

  it("touches what lies within its radius of the stroke, between the points too", () => {
    const points = Float32Array.of(0.5, 0.05, 0.5, 0.2, 1.05, 0.5, 1, 1.09, Number.NaN, 0);
    expect([...nearPath(points, path, 0.1, null)]).toEqual([1, 0, 1, 1, 0]);
  });

  it("takes only visible points", () => {
    const points = Float32Array.of(0.5, 0, 0.6, 0);
    expect([...nearPath(points, path, 0.1, Uint8Array.of(0, 1))]).toEqual([0, 1]);
  });
});

describe("the displacement field", () => {
  it("gives the mean displacement of the cells of a square, from their mean place", () => {
    const before = Uint16Array.of(100, 100, 300, 300, 60000, 60000);
    const after = Uint16Array.of(1100, 100, 1300, 300, 60000, 59000);
    const arrows = gather(before, after, () => true, 0.1);
    expect(arrows).toHaveLength(2);
    const near = arrows.find(({ cells }) => cells === 2)!;
    expect(near.x * 65535).toBeCloseTo(200, 6);
    expect(near.dx * 65535).toBeCloseTo(1000, 6);
    expect(near.dy).toBeCloseTo(0, 9);
    expect(arrows.find(({ cells }) => cells === 1)!.dy * 65535).toBeCloseTo(-1000, 6);
  });

  it("leaves out cells that do not count, and those without a place", () => {
    const before = Uint16Array.of(100, 100, 65535, 65535);
    expect(gather(before, before, (i) => i === 1, 0.1)).toEqual([]);
  });
});

describe("a gene along pseudotime", () => {
  it("rises where the gene rises, in stretches of as many cells each", () => {
    const times = Uint8Array.from({ length: 120 }, (_, i) => 2 * i);
    const points = trend(times, { codes: times, min: 0, max: 4 }, 6);
    expect(points.map(({ cells }) => cells)).toEqual(Array(6).fill(20));
    for (let i = 1; i < points.length; i++) {
      expect(points[i].mean).toBeGreaterThan(points[i - 1].mean);
      expect(points[i].time).toBeGreaterThan(points[i - 1].time);
    }
  });

  it("is what sorting the cells gives, and computed once for a gene and an order", () => {
    const bytes = (seed: number) =>
      Uint8Array.from({ length: 5000 }, (_, i) => ((i + 1) * seed * 2654435761) % 256);
    const [times, codes] = [bytes(3), bytes(7)];
    const cells = [...codes.keys()].filter((i) => times[i] !== 255 && codes[i] !== 255);
    cells.sort((a, b) => times[a] - times[b]);
    const column = { codes, min: 0, max: 254 };
    const points = trend(times, column);
    expect(points).toHaveLength(12);
    points.forEach((point, s) => {
      const part = cells.slice(
        Math.floor((s * cells.length) / 12),
        Math.floor(((s + 1) * cells.length) / 12),
      );
      const mean = part.reduce((sum, i) => sum + codes[i], 0) / part.length;
      expect(point.cells).toBe(part.length);
      expect(point.mean).toBeCloseTo(mean, 9);
      expect(point.time).toBeCloseTo(part.reduce((sum, i) => sum + times[i] / 254, 0) / part.length, 9);
    });
    const once = trendOnce(times, column);
    expect(once).toEqual(points);
    expect(trendOnce(times, column)).toBe(once);
    expect(trendOnce(bytes(5), column)).not.toEqual(once);
  });

  it("has no error where all cells are alike, and none of cells without a time", () => {
    const times = Uint8Array.of(0, 10, 255, 20);
    const points = trend(times, { codes: Uint8Array.of(7, 7, 200, 7), min: 0, max: 254 }, 1);
    expect(points).toHaveLength(1);
    expect(points[0]).toMatchObject({ mean: 7, error: 0, cells: 3 });
  });
});

describe("a model's card", () => {
  it("is read as headings, lists, tables and text", () => {
    const card =
      "---\nlicense: mit\n---\n# Title\n\nSome\ntext.\n\n- one\n  more\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |";
    expect(blocks(card)).toEqual([
      { kind: "heading", level: 1, text: "Title" },
      { kind: "text", text: "Some text." },
      { kind: "list", items: ["one more", "two"] },
      {
        kind: "table",
        rows: [
          ["a", "b"],
          ["1", "2"],
        ],
      },
    ]);
  });

  it("keeps markup of pages as text, and ends whatever is in it", () => {
    const hostile = "<script>alert(1)</script>\n#no heading\n- \n```\nnever closed";
    expect(blocks(hostile)[0]).toEqual({ kind: "text", text: "<script>alert(1)</script>" });
  });
});

it("texts in a figure cannot become markup", () => {
  expect(escapeXml(`<b a="1">&'`)).not.toMatch(/[<>"']/);
});

it("lineage that goes in a circle ends", () => {
  const told = {
    nodes: ["a", "b", "c"].map((id) => ({ id, label: id })),
    edges: [
      { from: "a", to: "b" },
      { from: "b", to: "c" },
      { from: "c", to: "a" },
    ],
  };
  for (const depth of depths(told).values()) expect(depth).toBeLessThan(3);
});
