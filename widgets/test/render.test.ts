import { describe, expect, it } from "vitest";
import { categoryColour, lookup, MAX_CODE, NAN_CODE, scaleColour } from "../src/palette.ts";
import { home, pan, toPlane, toScreen, zoomAt } from "../src/render/camera.ts";
import { layered, shuffled } from "../src/render/order.ts";

const frame = { width: 800, height: 500, extent: [1, 0.6] as const };

describe("the camera", () => {
  it("shows everything at home, the middle in the middle, y upwards", () => {
    const camera = home(frame.extent);
    expect(toScreen(camera, frame, 0.5, 0.3)).toEqual([400, 250]);
    for (const [x, y] of [
      [0, 0],
      [1, 0.6],
    ]) {
      const [px, py] = toScreen(camera, frame, x, y);
      expect(px).toBeGreaterThan(0);
      expect(px).toBeLessThan(800);
      expect(py).toBeGreaterThan(0);
      expect(py).toBeLessThan(500);
    }
    expect(toScreen(camera, frame, 0.5, 0.5)[1]).toBeLessThan(250);
  });

  it("goes from the plane to the screen and back", () => {
    const camera = { x: 0.2, y: 0.4, zoom: 3.7 };
    const [x, y] = toPlane(camera, frame, ...toScreen(camera, frame, 0.31, 0.17));
    expect(x).toBeCloseTo(0.31, 12);
    expect(y).toBeCloseTo(0.17, 12);
  });

  it("zooms about the pointer, which stays over the same cell", () => {
    const camera = home(frame.extent);
    const under = toPlane(camera, frame, 300, 200);
    const closer = zoomAt(camera, frame, 2, 300, 200);
    const [px, py] = toScreen(closer, frame, ...under);
    expect(px).toBeCloseTo(300, 9);
    expect(py).toBeCloseTo(200, 9);
    expect(closer.zoom).toBe(2);
  });

  it("keeps its middle over the cells, however far it is pushed", () => {
    const away = pan(home(frame.extent), frame, 1e6, -1e6);
    expect(away.x).toBe(0);
    expect(away.y).toBe(0);
  });

  it("neither zooms in nor out for ever", () => {
    let camera = home(frame.extent);
    for (let i = 0; i < 100; i++) camera = zoomAt(camera, frame, 2, 400, 250);
    expect(camera.zoom).toBeLessThanOrEqual(60);
    for (let i = 0; i < 100; i++) camera = zoomAt(camera, frame, 0.5, 400, 250);
    expect(camera.zoom).toBeGreaterThanOrEqual(0.5);
  });
});

describe("the drawing order", () => {
  it("is a shuffle, and the same one each time", () => {
    const order = shuffled(1000);
    expect(Array.from(order).sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    expect(shuffled(1000)).toEqual(order);
    expect(Array.from(order)).not.toEqual(Array.from(order).sort((a, b) => a - b));
  });

  it("puts high values on top and missing ones at the bottom", () => {
    const codes = Uint8Array.of(200, NAN_CODE, 0, 90);
    expect(Array.from(layered(Uint32Array.of(0, 1, 2, 3), codes, null, true))).toEqual([1, 2, 3, 0]);
  });

  it("puts marked cells above all others, and keeps the shuffle within a layer", () => {
    const flags = Uint8Array.of(0, 1, 0, 2);
    expect(Array.from(layered(Uint32Array.of(3, 2, 1, 0), null, flags, false))).toEqual([2, 0, 3, 1]);
  });
});

/** Relative luminance and contrast as WCAG defines them. */
function contrast(a: readonly number[], b: readonly number[]): number {
  const luminance = (rgb: readonly number[]) => {
    const [r, g, blue] = rgb.map((value) => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * blue;
  };
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}

describe("colours", () => {
  const surface = { light: [255, 255, 255], dark: [22, 26, 32] } as const;

  it.each(["light", "dark"] as const)("of groups stand out from the background in %s", (theme) => {
    for (let code = 0; code < 16; code++) {
      expect(contrast(categoryColour(code, theme), surface[theme])).toBeGreaterThan(1.7);
    }
  });

  it.each(["light", "dark"] as const)(
    "of groups are all different in %s, beyond the named ones too",
    (theme) => {
      const seen = new Set(Array.from({ length: 48 }, (_, code) => categoryColour(code, theme).join()));
      expect(seen.size).toBe(48);
    },
  );

  it.each(["amount", "change"] as const)("of %s go steadily away from the background", (scale) => {
    for (const theme of ["light", "dark"] as const) {
      let last = 0;
      for (let t = 0; t <= 1.0001; t += 0.1) {
        const now = contrast(scaleColour(scale, t, theme), surface[theme]);
        expect(now).toBeGreaterThanOrEqual(last - 1e-9);
        last = now;
      }
    }
  });

  it("of hidden groups are transparent, all others are not", () => {
    const hidden = new Uint8Array(256);
    hidden[3] = 1;
    const table = lookup({ kind: "category", scale: "amount" }, hidden, "light");
    expect(table[4 * 3 + 3]).toBe(0);
    expect(table[4 * 2 + 3]).toBe(255);
  });

  it("of missing values are the same grey on every scale", () => {
    const grey = (kind: "category" | "number") =>
      Array.from(lookup({ kind, scale: "order" }, null, "dark").subarray(4 * NAN_CODE, 4 * NAN_CODE + 3));
    expect(grey("number")).toEqual(grey("category"));
    expect(grey("number")).not.toEqual(Array.from(scaleColour("order", MAX_CODE / MAX_CODE, "dark")));
  });
});
