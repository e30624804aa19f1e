/**
 * The plane with the cells on it: keeps a renderer fed, follows pointer, wheel and keys, and draws one frame when
 * something has changed. What it shows comes from the store; what a person does with it goes there.
 */

import { type Camera, type Frame, home, pan, toPlane, zoomAt } from "../render/camera.ts";
import { layered, shuffled } from "../render/order.ts";
import { type Choice, choose, graphics } from "../render/probe.ts";
import { MISSING, MOVED, type PointRenderer, pointSize, SELECTED, type View } from "../render/renderer.ts";

export type Tool = "pan" | "lasso" | "box" | "brush";
/** What a selection does with the one before; keys that are held go first. */
export type Mode = "replace" | "add" | "subtract";

/** Everything that decides the picture, besides camera and time. */
export interface Picture {
  before: Uint16Array;
  after: Uint16Array | null;
  extent: readonly [number, number];
  codes: Uint8Array;
  /** Whether high codes mean much, and lie on top. */
  ordered: boolean;
  lookup: Uint8Array;
  selection: Uint8Array;
  anySelected: boolean;
  /** Whether cells that do not move step back behind those that do. */
  movedFirst: boolean;
  /** Density instead of points. */
  dense: boolean;
  /** Whether the places follow a hand: a glide would lag behind it. */
  following: boolean;
}

/** Mean place and displacement of some cells near each other, in the plane's unit square. */
export interface Arrow {
  x: number;
  y: number;
  dx: number;
  dy: number;
  cells: number;
}

/** Draws what lies over the cells. */
export type Painter = (context: CanvasRenderingContext2D, scene: Scene) => void;

const MAX_16 = 65535;
/** How long cells take to glide to new places; well inside what still feels immediate. */
const GLIDE_MS = 140;
const GLIDE_LIMIT = 200_000;

export class Scene {
  camera: Camera = { x: 0.5, y: 0.5, zoom: 1 };
  frame: Frame = { width: 0, height: 0, extent: [1, 1] };
  t = 1;
  picture: Picture | null = null;
  moved = new Uint8Array(0);
  movedCount = 0;
  onCamera: () => void = () => {};

  readonly overlay: HTMLCanvasElement;
  #renderer: PointRenderer | null = null;
  #paint: Painter;
  #host: HTMLElement;
  #request = 0;
  #field: { key: unknown[]; arrows: Arrow[] } | null = null;
  #base = new Uint32Array(0);
  #flags = new Uint8Array(0);
  #places: Float32Array | null = null;
  #glide: { from: Uint16Array; to: Uint16Array; begin: number } | null = null;
  #observer: ResizeObserver;
  #still = matchMedia("(prefers-reduced-motion: reduce)");
  #choice: Choice;

  constructor(host: HTMLElement, paint: Painter, choice: Choice) {
    this.#host = host;
    this.#paint = paint;
    this.#choice = choice;
    this.overlay = document.createElement("canvas");
    this.overlay.className = "sl-overlay";
    host.append(this.overlay);
    this.#observer = new ResizeObserver(() => this.#resize());
    this.#observer.observe(host);
    this.#resize();
  }

  get backend(): string {
    return this.#renderer?.kind ?? "none";
  }

  dispose() {
    cancelAnimationFrame(this.#request);
    this.#observer.disconnect();
    this.#release();
    this.overlay.remove();
  }

  /** Cells in the order in which they are drawn, the last on top. */
  order(): Uint32Array {
    return layered(this.#base, this.picture?.codes ?? null, this.#flags, this.picture?.ordered ?? false);
  }

  /** Whether a cell steps back behind those that are selected, or that move. */
  faded(cell: number): boolean {
    const { emphasis } = this.#view();
    return emphasis !== 0 && !(this.#flags[cell] & emphasis);
  }

  /** The cells alone as an image. */
  pointsUrl(): string {
    this.#draw();
    this.#renderer?.draw(this.#view());
    const url = this.#renderer?.canvas.toDataURL("image/png") ?? "";
    this.redraw();
    return url;
  }

  // ---------------------------------------------------------------------------------- content

  /** Show a new picture. Only what differs from the last one is uploaded. */
  show(picture: Picture) {
    const last = this.picture;
    const n = picture.before.length >> 1;
    const shown = last && last.before.length === picture.before.length ? this.#displayed() : null;
    this.picture = picture;
    if (!last || last.before.length !== picture.before.length) {
      this.#base = shuffled(n) as Uint32Array<ArrayBuffer>;
    }
    if (!last || last.extent[0] !== picture.extent[0] || last.extent[1] !== picture.extent[1]) {
      this.camera = home(picture.extent);
    }
    this.frame = { ...this.frame, extent: picture.extent };
    if (last && last.dense !== picture.dense) this.#release();
    const placesChanged = last?.before !== picture.before || last?.after !== picture.after;
    if (placesChanged) {
      this.#findMoved();
      this.#places = null;
      this.#glide = null;
      if (shown && n <= GLIDE_LIMIT && !picture.following && !this.#still.matches) {
        this.#glide = { from: shown, to: this.#target(), begin: performance.now() };
      }
    }
    if (this.#renderer) this.#feed(this.#renderer, last, placesChanged);
    this.redraw();
  }

  setT(t: number) {
    if (t === this.t) return;
    this.t = t;
    this.#places = null;
    if (this.#glide) {
      this.#glide = null;
      this.#upload();
    }
    this.redraw();
  }

  setCamera(camera: Camera) {
    this.camera = camera;
    this.onCamera();
    this.redraw();
  }

  reset() {
    this.setCamera(home(this.frame.extent));
  }

  panBy(dx: number, dy: number) {
    this.setCamera(pan(this.camera, this.frame, dx, dy));
  }

  zoomBy(factor: number, px = this.frame.width / 2, py = this.frame.height / 2) {
    this.setCamera(zoomAt(this.camera, this.frame, factor, px, py));
  }

  /** Where one cell is shown now, in the plane; NaN where it has no place. */
  place(cell: number): [number, number] {
    const { before, after } = this.picture!;
    const to = after ?? before;
    const at = (k: number) =>
      before[k] === MISSING || to[k] === MISSING
        ? Number.NaN
        : (before[k] + (to[k] - before[k]) * this.t) / MAX_16;
    return [at(2 * cell), at(2 * cell + 1)];
  }

  /** Places as they are shown now, in the plane: x, y pairs. */
  places(): Float32Array {
    if (!this.#places) {
      const shown = this.#target();
      const places = new Float32Array(shown.length);
      for (let i = 0; i < shown.length; i++)
        places[i] = shown[i] === MISSING ? Number.NaN : shown[i] / MAX_16;
      this.#places = places;
    }
    return this.#places;
  }

  /** The visible cell nearest to a place on the screen, or -1 where none is near. */
  pick(px: number, py: number): number {
    if (!this.picture) return -1;
    const places = this.places();
    const { codes, lookup } = this.picture;
    const [x, y] = toPlane(this.camera, this.frame, px, py);
    const [x1] = toPlane(this.camera, this.frame, px + Math.max(6, this.#size() / 2 + 2), py);
    let best = (x1 - x) ** 2;
    let found = -1;
    for (let i = 0, n = places.length >> 1; i < n; i++) {
      const dx = places[2 * i] - x;
      const dy = places[2 * i + 1] - y;
      const far = dx * dx + dy * dy;
      if (far < best && lookup[4 * codes[i] + 3] !== 0) {
        best = far;
        found = i;
      }
    }
    return found;
  }

  /** Something computed of before and after at this zoom, kept until either changes. */
  field(compute: (scene: Scene) => Arrow[]): Arrow[] {
    const { before, after, lookup } = this.picture!;
    const level = Math.round(Math.log(this.camera.zoom) / Math.log(1.4));
    const key = [before, after, lookup, level, this.frame.width];
    if (!this.#field || key.some((part, i) => part !== this.#field!.key[i])) {
      this.#field = { key, arrows: compute(this) };
    }
    return this.#field.arrows;
  }

  redraw() {
    if (!this.#request) this.#request = requestAnimationFrame(() => this.#draw());
  }

  // --------------------------------------------------------------------------------- internal

  #size(): number {
    return pointSize((this.picture?.before.length ?? 2) >> 1, this.camera, this.frame);
  }

  #ratio(): number {
    return Math.min(2, window.devicePixelRatio || 1);
  }

  #view(): View {
    const selected = this.picture?.anySelected ?? false;
    const moving =
      this.picture?.movedFirst && this.movedCount > 0 && this.movedCount < this.#flags.length && this.t > 0;
    return {
      camera: this.camera,
      frame: this.frame,
      ratio: this.#ratio(),
      t: this.#glide ? ease((performance.now() - this.#glide.begin) / GLIDE_MS) : this.t,
      size: this.#size(),
      emphasis: selected ? SELECTED : moving ? MOVED : 0,
      fade: selected ? 0.86 : 0.62 * Math.min(1, 2 * this.t),
      dense: this.picture?.dense ?? false,
    };
  }

  /** Places between before and after at the current t. */
  #target(): Uint16Array {
    const { before, after } = this.picture!;
    if (!after || this.t === 0) return before;
    if (this.t === 1) return after;
    return between(before, after, this.t);
  }

  /** What is on the screen at this moment, also halfway through a glide. */
  #displayed(): Uint16Array {
    if (!this.#glide) return this.#target();
    const { from, to, begin } = this.#glide;
    return between(from, to, ease((performance.now() - begin) / GLIDE_MS));
  }

  #findMoved() {
    const { before, after } = this.picture!;
    const moved = new Uint8Array(before.length >> 1);
    let count = 0;
    if (after) {
      for (let i = 0; i < moved.length; i++) {
        if (before[2 * i] !== after[2 * i] || before[2 * i + 1] !== after[2 * i + 1]) {
          moved[i] = 1;
          count++;
        }
      }
    }
    this.moved = moved;
    this.movedCount = count;
  }

  #upload() {
    if (!this.#renderer || !this.picture) return;
    if (this.#glide) this.#renderer.setPositions(this.#glide.from, this.#glide.to);
    else this.#renderer.setPositions(this.picture.before, this.picture.after);
  }

  #feed(renderer: PointRenderer, last: Picture | null, placesChanged: boolean) {
    const { picture } = this;
    if (!picture) return;
    if (placesChanged || !last) this.#upload();
    const flagsChanged = placesChanged || last?.selection !== picture.selection;
    if (flagsChanged) {
      const flags = new Uint8Array(picture.before.length >> 1);
      for (let i = 0; i < flags.length; i++) {
        flags[i] = (picture.selection[i] ? SELECTED : 0) | (this.moved[i] ? MOVED : 0);
      }
      this.#flags = flags;
      renderer.setFlags(flags);
    }
    const codesChanged = last?.codes !== picture.codes;
    if (codesChanged) renderer.setCodes(picture.codes);
    if (codesChanged || flagsChanged || last?.ordered !== picture.ordered) {
      renderer.setOrder(layered(this.#base, picture.codes, this.#flags, picture.ordered));
    }
    if (last?.lookup !== picture.lookup) renderer.setLookup(picture.lookup);
  }

  #start() {
    const make = () => {
      const canvas = document.createElement("canvas");
      canvas.className = "sl-points";
      return canvas;
    };
    const fill = (renderer: PointRenderer) => {
      this.#renderer = renderer;
      this.#feed(renderer, null, true);
    };
    // Only the raster counts cells per pixel.
    const choice = this.picture?.dense ? "raster" : this.#choice;
    const { renderer, refused } = choose(make, fill, this.#view(), choice);
    this.#renderer = renderer;
    renderer.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      if (this.#renderer !== renderer) return;
      // A lost context may never come back; the raster always works.
      renderer.canvas.remove();
      this.#renderer = null;
      this.#choice = "raster";
      this.redraw();
    });
    this.#host.prepend(renderer.canvas);
    this.#host.dataset.renderer = renderer.kind;
    if (refused) this.#host.dataset.refused = refused;
  }

  #release() {
    this.#renderer?.dispose();
    this.#renderer?.canvas.remove();
    this.#renderer = null;
  }

  #draw() {
    cancelAnimationFrame(this.#request);
    this.#request = 0;
    if (this.frame.width < 2 || this.frame.height < 2) return;
    if (this.picture?.before.length) {
      if (!this.#renderer) this.#start();
      if (this.#glide && performance.now() - this.#glide.begin >= GLIDE_MS) {
        this.#glide = null;
        this.#upload();
      }
      this.#renderer!.draw(this.#view());
    }
    const ratio = this.#ratio();
    const ink = this.#renderer?.ink ?? null;
    this.overlay.hidden = ink !== null;
    if (!ink && !this.picture) return;
    // Without a graphics processor lines are drawn sooner in the memory where they are put together.
    const context = ink ?? this.overlay.getContext("2d", { willReadFrequently: graphics() !== "processor" })!;
    const [width, height] = [this.frame.width, this.frame.height].map((side) => Math.round(side * ratio));
    // The window may have gone to a finer screen.
    if (!ink && (this.overlay.width !== width || this.overlay.height !== height))
      [this.overlay.width, this.overlay.height] = [width, height];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (!ink) context.clearRect(0, 0, this.frame.width, this.frame.height);
    this.#paint(context, this);
    this.#host.dataset.frame = String(Number(this.#host.dataset.frame ?? 0) + 1);
    if (this.#glide) this.redraw();
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#host;
    if (width === this.frame.width && height === this.frame.height) return;
    this.frame = { ...this.frame, width, height };
    // At once, so that a resized canvas is never seen empty.
    if (width > 1 && height > 1) this.#draw();
    this.onCamera();
  }
}

function ease(u: number): number {
  const x = Math.min(1, Math.max(0, u));
  return 1 - (1 - x) ** 3;
}

function between(from: Uint16Array, to: Uint16Array, t: number): Uint16Array {
  const places = new Uint16Array(from.length);
  for (let i = 0; i < places.length; i++) places[i] = Math.round(from[i] + (to[i] - from[i]) * t);
  return places;
}
