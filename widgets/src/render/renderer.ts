/** What draws the cells: two backends, one interface. Changing a colour, a place or a filter is one small upload. */

import type { Camera, Frame } from "./camera.ts";

/** Place of a cell that has none (both coordinates). */
export const MISSING = 65535;
/** Bits of a cell's flags. */
export const SELECTED = 1;
export const MOVED = 2;

export interface View {
  camera: Camera;
  frame: Frame;
  /** Device pixels per CSS pixel. */
  ratio: number;
  /** 0 = before, 1 = after. */
  t: number;
  /** Diameter of a point in CSS pixels. */
  size: number;
  /** Cells with this flag stay in full colour and the others fade; 0 = nothing fades. */
  emphasis: number;
  /** How much the others fade, 0..1. */
  fade: number;
  /** Show how many cells lie on a place instead of each of them. */
  dense: boolean;
}

export interface PointRenderer {
  readonly kind: "webgl2" | "raster";
  readonly canvas: HTMLCanvasElement;
  /**
   * Where what lies over the cells can be drawn after them, at the frame's size; null where that takes a canvas of its own.
   * Without a graphics processor each canvas of a page costs about a third of a frame.
   */
  readonly ink: CanvasRenderingContext2D | null;
  /** Quantised places, x and y interleaved; `after` is null where nothing moves. */
  setPositions(before: Uint16Array, after: Uint16Array | null): void;
  /** One colour code per cell. */
  setCodes(codes: Uint8Array): void;
  setFlags(flags: Uint8Array): void;
  /** Drawing order: the last is on top. */
  setOrder(order: Uint32Array): void;
  /** 256 RGBA colours. */
  setLookup(table: Uint8Array): void;
  draw(view: View): void;
  /** Wait until the last picture is really there (for timing). */
  finish(): void;
  dispose(): void;
}

/** A point's diameter that suits the number of cells and the zoom. */
export function pointSize(n: number, camera: Camera, frame: Frame): number {
  const room = Math.sqrt((frame.width * frame.height) / Math.max(1, n));
  const base = Math.min(8, Math.max(1.5, room * 0.27));
  return Math.min(16, base * camera.zoom ** 0.45);
}

/** Faintness of points that lie on each other in masses. */
export function opacity(n: number): number {
  return n > 200_000 ? 0.55 : n > 20_000 ? 0.75 : 0.9;
}
