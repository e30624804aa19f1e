import { describe, expect, it } from "vitest";
import { type Gestures, Pointer } from "../src/stage/pointer.ts";
import type { Scene } from "../src/stage/scene.ts";

/** Three shown cells in a row, and what keys select of them. */
function plane() {
  const target = new EventTarget();
  const places = Float32Array.of(0.3, 0.5, 0.5, 0.5, 0.7, 0.5);
  const scene = {
    camera: { x: 0.5, y: 0.5, zoom: 1 },
    frame: { width: 500, height: 500, extent: [1, 1] },
    picture: { codes: new Uint8Array(3), lookup: Uint8Array.of(0, 0, 0, 255) },
    places: () => places,
    place: (cell: number) => [places[2 * cell], places[2 * cell + 1]],
    redraw: () => {},
  };
  const selected: [number[], string][] = [];
  const gestures: Partial<Gestures> = {
    mode: () => "replace",
    onSelect: (mask, mode) => selected.push([[...mask], mode]),
    onCursor: () => {},
  };
  new Pointer(target as HTMLElement, scene as unknown as Scene, gestures as Gestures);
  const press = (key: string, more: object = {}) => {
    const event = Object.assign(new Event("keydown", { cancelable: true }), { key, code: "", ...more });
    target.dispatchEvent(event);
    return event.defaultPrevented;
  };
  return { press, selected };
}

describe("the key that begins and ends a box at a cell", () => {
  it("takes away with Alt, also where Alt writes another letter", () => {
    for (const key of ["x", "≈", "ź"]) {
      const { press, selected } = plane();
      press("c");
      press("x", { code: "KeyX" });
      press("ArrowRight");
      expect(press(key, { code: "KeyX", altKey: true })).toBe(true);
      expect(selected).toEqual([[[0, 1, 1], "subtract"]]);
    }
  });

  it("is the one that writes x, wherever it lies", () => {
    const { press, selected } = plane();
    press("c");
    press("x", { code: "KeyB" });
    press("ArrowRight");
    // There the key in the place of X writes another letter of its own.
    expect(press("q", { code: "KeyX" })).toBe(false);
    expect(press("q", { code: "KeyX", altKey: true })).toBe(false);
    expect(selected).toEqual([]);
    press("X", { code: "KeyB", shiftKey: true });
    expect(selected).toEqual([[[0, 1, 1], "add"]]);
  });
});
