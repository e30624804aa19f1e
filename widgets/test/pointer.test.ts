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

/** A plane under hands: how it was moved and zoomed, and what was clicked. */
function touched() {
  const target = Object.assign(new EventTarget(), {
    getBoundingClientRect: () => ({ left: 0, top: 0 }),
    setPointerCapture: () => {},
    focus: () => {},
  });
  const moves: [number, number][] = [];
  const zooms: [number, number, number][] = [];
  const did: string[] = [];
  const scene = {
    panBy: (dx: number, dy: number) => moves.push([dx, dy]),
    zoomBy: (factor: number, x: number, y: number) => zooms.push([factor, x, y]),
    pick: () => 7,
    redraw: () => {},
  };
  const gestures: Partial<Gestures> = {
    tool: () => "pan",
    mode: () => "replace",
    onHover: (cell) => cell >= 0 && did.push("hover"),
    onClick: () => did.push("click"),
    onSelect: () => did.push("select"),
  };
  new Pointer(target as unknown as HTMLElement, scene as unknown as Scene, gestures as Gestures);
  const send = (type: string, pointerId: number, clientX: number, clientY: number) => {
    const more = { pointerId, clientX, clientY, button: 0, isPrimary: pointerId === 1 };
    target.dispatchEvent(Object.assign(new Event(`pointer${type}`, { cancelable: true }), more));
  };
  return { send, moves, zooms, did, gestures };
}

describe("two fingers", () => {
  it("move the plane with their middle and zoom by how far apart they are", () => {
    const { send, moves, zooms, did } = touched();
    send("down", 1, 100, 100);
    send("down", 2, 300, 100);
    send("move", 2, 500, 100);
    expect(moves).toEqual([[100, 0]]);
    expect(zooms).toEqual([[2, 300, 100]]);
    send("up", 2, 500, 100);
    send("up", 1, 100, 100);
    expect(did).toEqual([]);
  });

  it("leave nothing to the one that is lifted last", () => {
    const { send, moves, did } = touched();
    send("down", 1, 100, 100);
    send("down", 2, 300, 100);
    send("up", 1, 100, 100);
    send("move", 2, 360, 150);
    send("up", 2, 360, 150);
    expect([moves, did]).toEqual([[], []]);
  });

  it("end the lasso that the first of them began", () => {
    const { send, did, gestures } = touched();
    gestures.tool = () => "lasso";
    send("down", 1, 100, 100);
    send("move", 1, 150, 160);
    send("down", 2, 300, 100);
    send("up", 2, 300, 100);
    send("up", 1, 150, 160);
    expect(did).toEqual([]);
  });
});

describe("a pointer that goes by", () => {
  it("is no part of the gesture of another", () => {
    const { send, moves, did } = touched();
    send("down", 2, 100, 100);
    send("move", 2, 120, 100);
    send("move", 9, 300, 300);
    send("up", 9, 300, 300);
    send("move", 2, 130, 100);
    send("up", 2, 130, 100);
    expect(moves).toEqual([
      [20, 0],
      [10, 0],
    ]);
    expect(did).toEqual([]);
  });

  it("whose end nobody has told is forgotten when the next one comes", () => {
    const { send, moves, zooms } = touched();
    send("down", 2, 100, 100);
    send("down", 1, 300, 100);
    send("move", 1, 340, 100);
    expect([moves, zooms]).toEqual([[[40, 0]], []]);
  });
});
