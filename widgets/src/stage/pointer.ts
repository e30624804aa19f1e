/** Pointer, wheel and keys on the plane. Nothing of it reaches the notebook around. */

import { boxOutline, nearPath, type Outline, selectInside, thin } from "../lasso.ts";
import { type Combine, combineMode } from "../reducers.ts";
import { toPlane, toScreen, unit } from "../render/camera.ts";
import { nearestCell, nextCell, type Towards } from "./cursor.ts";
import type { Mode, Scene, Tool } from "./scene.ts";

export interface Gestures {
  tool: () => Tool;
  /** What a selection does where no key is held. */
  mode: () => Mode;
  setTool: (tool: Tool) => void;
  /** A lasso or box was closed: one byte per cell inside it. */
  onSelect: (mask: Uint8Array, mode: Combine) => void;
  /** Also a lasso that was hardly begun; `mode` is what a selection would have done. */
  onClick: (cell: number, mode: Combine) => void;
  onHover: (cell: number, px: number, py: number) => void;
  onClear: () => void;
  /** Select all cells that are shown; or those of them that are not selected. */
  onAll: () => void;
  onInvert: () => void;
  /** The cell to which keys have gone and its place on the screen, and whether a box begins at some cell; -1 = at none. */
  onCursor: (cell: number, px: number, py: number, corner: boolean) => void;
  /** The key that picks the cell there. */
  onPick: (cell: number) => void;
}

const CLICK_PX = 4;
/** Radius of the brush. */
export const BRUSH_PX = 18;
const THIN_PX = 2;
const PAN_PX = 48;
const ZOOM_STEP = 1.35;
/** How far a leap from cell to cell goes at least, and how near to the edge the cell may come to lie. */
const LEAP_PX = 48;
const EDGE_PX = 24;
/** By how much a box reaches beyond the cells at its corners: they are in it. */
const AROUND_PX = 3;
const ARROWS: Record<string, Towards> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, 1],
  ArrowDown: [0, -1],
};

/** The outline being drawn, in CSS pixels, for the overlay. */
export interface Drawing {
  path: number[];
  tool: Tool;
}

export class Pointer {
  drawing: Drawing | null = null;
  #stop: (() => void)[] = [];
  #begin: { x: number; y: number; pointer: number } | null = null;
  /** Where each pointer is that is down on the plane: two are fingers that zoom. */
  #down = new Map<number, [number, number]>();
  #last = { x: 0, y: 0 };
  #dragged = false;
  /** The cell to which keys have gone, while they go from cell to cell; and at which they were last. */
  #cell: number | null = null;
  #was = -1;
  /** The cell at one corner of a box. */
  #corner: number | null = null;

  constructor(
    private readonly target: HTMLElement,
    private readonly scene: Scene,
    private readonly gestures: Gestures,
  ) {
    this.#listen("pointerdown", (event) => this.#press(event));
    this.#listen("pointermove", (event) => this.#move(event));
    this.#listen("pointerup", (event) => this.#up(event));
    this.#listen("pointercancel", (event) => {
      this.#down.delete(event.pointerId);
      this.#cancel();
    });
    this.#listen("pointerleave", () => this.gestures.onHover(-1, 0, 0));
    this.#listen("wheel", (event) => this.#wheel(event), { passive: false });
    this.#listen("dblclick", (event) => event.stopPropagation());
    this.#listen("contextmenu", (event) => event.stopPropagation());
    this.#listen("keydown", (event) => this.#key(event));
    this.#listen("blur", () => this.#leave());
  }

  dispose() {
    for (const stop of this.#stop) stop();
  }

  #listen<K extends keyof HTMLElementEventMap>(
    type: K,
    handler: (event: HTMLElementEventMap[K]) => void,
    options?: AddEventListenerOptions,
  ) {
    this.target.addEventListener(type, handler, options);
    this.#stop.push(() => this.target.removeEventListener(type, handler, options));
  }

  #place(event: MouseEvent): [number, number] {
    const box = this.target.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  #press(event: PointerEvent) {
    if (event.button !== 0) return;
    const [x, y] = this.#place(event);
    this.target.setPointerCapture(event.pointerId);
    this.target.focus({ preventScroll: true });
    this.#leave();
    // The first of its kind: of one before, nobody has said that it was lifted.
    if (event.isPrimary) this.#down.clear();
    this.#down.set(event.pointerId, [x, y]);
    if (this.#down.size > 1) {
      // What the first finger had begun was to be a zoom.
      this.#cancel();
      event.preventDefault();
      event.stopPropagation();
      return;
    }
    this.#begin = { x, y, pointer: event.pointerId };
    this.#last = { x, y };
    this.#dragged = false;
    this.gestures.onHover(-1, 0, 0);
    const tool = this.gestures.tool();
    if (tool !== "pan") this.drawing = { tool, path: [x, y] };
    event.preventDefault();
    event.stopPropagation();
  }

  #move(event: PointerEvent) {
    const [x, y] = this.#place(event);
    if (this.#down.size > 1) {
      this.#pinch(event.pointerId, x, y);
      return;
    }
    // A finger that is left of two has nothing to do until it is lifted; a mouse that moves by is no part of a gesture.
    if (this.#begin ? this.#begin.pointer !== event.pointerId : this.#down.has(event.pointerId)) return;
    if (!this.#begin) {
      this.gestures.onHover(this.scene.pick(x, y), x, y);
      return;
    }
    if (Math.hypot(x - this.#begin.x, y - this.#begin.y) > CLICK_PX) this.#dragged = true;
    if (this.drawing) {
      const { path, tool } = this.drawing;
      if (tool === "box") path.splice(2, path.length, x, y);
      else path.push(x, y);
      this.scene.redraw();
    } else if (this.#dragged) {
      this.scene.panBy(x - this.#last.x, y - this.#last.y);
      this.gestures.onHover(-1, 0, 0);
    }
    this.#last = { x, y };
  }

  /** One of two fingers moves: the plane follows their middle, and how far apart they are. */
  #pinch(pointer: number, x: number, y: number) {
    if (!this.#down.has(pointer)) return;
    const span = () => {
      const [[x0, y0], [x1, y1]] = [...this.#down.values()];
      return { x: (x0 + x1) / 2, y: (y0 + y1) / 2, wide: Math.max(1, Math.hypot(x1 - x0, y1 - y0)) };
    };
    const before = span();
    this.#down.set(pointer, [x, y]);
    const after = span();
    this.scene.panBy(after.x - before.x, after.y - before.y);
    this.scene.zoomBy(after.wide / before.wide, after.x, after.y);
  }

  #up(event: PointerEvent) {
    this.#down.delete(event.pointerId);
    if (this.#begin?.pointer !== event.pointerId) return;
    const [x, y] = this.#place(event);
    const { drawing } = this;
    this.#begin = null;
    this.drawing = null;
    const held = combineMode(event);
    // Without a tool that selects, the mode of the last one is not to be seen.
    const mode = held === "replace" && drawing ? this.gestures.mode() : held;
    if (!this.#dragged) this.gestures.onClick(this.scene.pick(x, y), mode);
    else if (drawing) this.#select(drawing, mode);
    this.scene.redraw();
  }

  #cancel() {
    this.#begin = null;
    this.drawing = null;
    this.scene.redraw();
  }

  #select({ path, tool }: Drawing, mode: Combine) {
    const { scene } = this;
    if (!scene.picture || path.length < 4) return;
    const { codes, lookup } = scene.picture;
    const visible = new Uint8Array(codes.length);
    for (let i = 0; i < codes.length; i++) visible[i] = lookup[4 * codes[i] + 3] ? 1 : 0;
    const screen: Outline =
      tool === "box" ? boxOutline(path[0], path[1], path[2], path[3]) : thin(path, THIN_PX);
    const outline = new Float64Array(screen.length);
    for (let i = 0; i < screen.length; i += 2) {
      const [x, y] = toPlane(scene.camera, scene.frame, screen[i], screen[i + 1]);
      outline[i] = x;
      outline[i + 1] = y;
    }
    const mask =
      tool === "brush"
        ? nearPath(scene.places(), outline, BRUSH_PX / unit(scene.camera, scene.frame), visible)
        : selectInside(scene.places(), outline, visible);
    this.gestures.onSelect(mask, mode);
  }

  #wheel(event: WheelEvent) {
    event.preventDefault();
    event.stopPropagation();
    const [x, y] = this.#place(event);
    const lines = event.deltaMode === 1 ? 16 : 1;
    this.scene.zoomBy(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0015)), x, y);
  }

  #key(event: KeyboardEvent) {
    if (event.ctrlKey || event.metaKey) return;
    const moves: Record<string, () => void> = {
      ArrowLeft: () => this.scene.panBy(PAN_PX, 0),
      ArrowRight: () => this.scene.panBy(-PAN_PX, 0),
      ArrowUp: () => this.scene.panBy(0, PAN_PX),
      ArrowDown: () => this.scene.panBy(0, -PAN_PX),
      "+": () => this.scene.zoomBy(ZOOM_STEP),
      "=": () => this.scene.zoomBy(ZOOM_STEP),
      "-": () => this.scene.zoomBy(1 / ZOOM_STEP),
      "0": () => this.scene.reset(),
      p: () => this.gestures.setTool("pan"),
      l: () => this.gestures.setTool("lasso"),
      b: () => this.gestures.setTool("box"),
      r: () => this.gestures.setTool("brush"),
      a: () => this.gestures.onAll(),
      i: () => this.gestures.onInvert(),
      c: () => (this.#cell === null ? this.#enter() : this.#leave()),
      Escape: () => (this.drawing ? this.#cancel() : this.gestures.onClear()),
    };
    const move = (this.#cell === null ? null : this.#step(event, this.#cell)) ?? moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    move();
    if (this.#cell !== null) this.#point();
  }

  // -------------------------------------------------------------------------- from cell to cell

  #shown = (cell: number): boolean => {
    const { codes, lookup } = this.scene.picture!;
    return lookup[4 * codes[cell] + 3] !== 0;
  };

  #enter() {
    const { scene } = this;
    if (!scene.picture) return;
    const before = this.#was >= 0 && this.#was < scene.picture.codes.length && this.#shown(this.#was);
    const cell = before
      ? this.#was
      : nearestCell(scene.places(), this.#shown, scene.camera.x, scene.camera.y);
    if (cell >= 0) this.#cell = cell;
  }

  #leave() {
    if (this.#cell === null) return;
    this.#was = this.#cell;
    this.#cell = this.#corner = null;
    this.drawing = null;
    this.gestures.onCursor(-1, 0, 0, false);
    this.scene.redraw();
  }

  /** What a key does while keys go from cell to cell; null where it does what it always does. */
  #step(event: KeyboardEvent, cell: number): (() => void) | null {
    const { scene } = this;
    const towards = ARROWS[event.key];
    if (towards)
      return () => {
        const least = event.shiftKey ? LEAP_PX / unit(scene.camera, scene.frame) : 0;
        this.#cell = nextCell(scene.places(), this.#shown, cell, towards, least);
      };
    // With Alt, which takes away, the key writes another letter on some keyboards: there its place counts.
    const other = event.altKey && event.code === "KeyX" && !/^[a-z]$/i.test(event.key);
    const key = other ? "x" : event.key.toLowerCase();
    switch (key) {
      case " ":
      case "enter":
        return () => this.gestures.onPick(cell);
      case "x":
        return () => this.#box(cell, event);
      case "escape":
        return () => {
          if (this.#corner === null) this.#leave();
          this.#corner = this.drawing = null;
        };
      default:
        return null;
    }
  }

  /** One corner of a box, and then the other. */
  #box(cell: number, event: KeyboardEvent) {
    if (this.#corner === null) {
      this.#corner = cell;
      return;
    }
    const path = this.#between(this.#corner, cell);
    this.#corner = this.drawing = null;
    const held = combineMode(event);
    this.#select({ tool: "box", path }, held === "replace" ? this.gestures.mode() : held);
  }

  #between(one: number, other: number): number[] {
    const [[x0, y0], [x1, y1]] = [one, other].map((cell) => this.#at(cell));
    return [
      Math.min(x0, x1) - AROUND_PX,
      Math.min(y0, y1) - AROUND_PX,
      Math.max(x0, x1) + AROUND_PX,
      Math.max(y0, y1) + AROUND_PX,
    ];
  }

  #at(cell: number): [number, number] {
    return toScreen(this.scene.camera, this.scene.frame, ...this.scene.place(cell));
  }

  /** Show where the keys are; what lies beyond the edge is brought in. */
  #point() {
    const { scene } = this;
    const cell = this.#cell!;
    const { width, height } = scene.frame;
    let [px, py] = this.#at(cell);
    if (px < EDGE_PX || py < EDGE_PX || px > width - EDGE_PX || py > height - EDGE_PX) {
      scene.panBy(width / 2 - px, height / 2 - py);
      [px, py] = this.#at(cell);
    }
    if (this.#corner !== null) this.drawing = { tool: "box", path: this.#between(this.#corner, cell) };
    this.gestures.onCursor(cell, px, py, this.#corner !== null);
    scene.redraw();
  }
}
