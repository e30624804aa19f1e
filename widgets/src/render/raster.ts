/**
 * Raster backend: plain JavaScript into an image. For machines whose WebGL is missing or is drawn in software, where it
 * is the faster of the two for many cells; and for density, on any machine.
 */

import { toScreen, unit } from "./camera.ts";
import { MISSING, opacity, type PointRenderer, type View } from "./renderer.ts";

const MAX_16 = 65535;
/** From so many cells on, whole pixels are drawn instead of blended discs. */
const MANY = 50_000;
/** Side of a place at which density counts, in device pixels. */
const BIN = 2;

/** A disc's coverage per pixel, 0..255; the middle of the disc is the middle of the square. */
function stamp(diameter: number): { side: number; cover: Uint8Array } {
  const side = Math.max(1, Math.ceil(diameter));
  const cover = new Uint8Array(side * side);
  if (diameter <= 3) return { side, cover: cover.fill(255) };
  const middle = (side - 1) / 2;
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const edge = diameter / 2 - Math.hypot(x - middle, y - middle);
      cover[y * side + x] = Math.round(255 * Math.min(1, Math.max(0, edge + 0.25)));
    }
  }
  return { side, cover };
}

/** Cells in the order in which they are drawn: read from one end to the other, a million take a few milliseconds. */
interface Drawn {
  x: Uint16Array;
  y: Uint16Array;
  /** Places after; the same arrays where nothing moves. */
  x1: Uint16Array;
  y1: Uint16Array;
  codes: Uint8Array;
  flags: Uint8Array;
}

export function raster(canvas: HTMLCanvasElement): PointRenderer {
  // Every picture is written here pixel by pixel, so the canvas may as well stay in this memory.
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("this browser gives no canvas to draw on");
  let before = new Uint16Array(0);
  let after: Uint16Array | null = null;
  let codes = new Uint8Array(0);
  let flags = new Uint8Array(0);
  let order = new Uint32Array(0);
  let lookup = new Uint8Array(1024);
  let image: ImageData | null = null;
  // What has changed since it was last put in order is left out here.
  let drawn: Partial<Drawn> = {};
  let sums = new Float32Array(0);
  let dense = false;

  function gathered(): Drawn & { n: number } {
    const n = order.length;
    const places = (of: Uint16Array) => {
      const [x, y] = [new Uint16Array(n), new Uint16Array(n)];
      for (let k = 0; k < n; k++) {
        x[k] = of[2 * order[k]];
        y[k] = of[2 * order[k] + 1];
      }
      return [x, y] as const;
    };
    const bytes = (of: Uint8Array) => {
      const found = new Uint8Array(n);
      for (let k = 0; k < n; k++) found[k] = of[order[k]];
      return found;
    };
    let { x, y, x1, y1 } = drawn;
    if (!x || !y || !x1 || !y1) {
      [x, y] = places(before);
      [x1, y1] = after ? places(after) : [x, y];
    }
    drawn = { x, y, x1, y1, codes: drawn.codes ?? bytes(codes), flags: drawn.flags ?? bytes(flags) };
    return { n, ...(drawn as Drawn) };
  }

  /** Draw one cell's disc over what is there. The image is premultiplied by nothing: its alpha is kept straight. */
  function put(pixels: Uint8ClampedArray, width: number, height: number, view: View) {
    const cells = gathered();
    const { camera, frame, ratio, t } = view;
    const scale = (unit(camera, frame) * ratio) / MAX_16;
    const [x0, y0] = toScreen(camera, frame, 0, 0).map((value) => value * ratio);
    const { side, cover } = stamp(view.size * ratio);
    const half = (side - 1) / 2;
    const strong = opacity(cells.n);
    const weak = strong * (1 - view.fade);
    for (let k = 0; k < cells.n; k++) {
      const entry = 4 * cells.codes[k];
      if (lookup[entry + 3] === 0 || cells.x[k] === MISSING) continue;
      const qx = cells.x[k] + (cells.x1[k] - cells.x[k]) * t;
      const qy = cells.y[k] + (cells.y1[k] - cells.y[k]) * t;
      const left = Math.round(x0 + qx * scale - half);
      const top = Math.round(y0 - qy * scale - half);
      if (left + side <= 0 || top + side <= 0 || left >= width || top >= height) continue;
      const alpha = view.emphasis && !(cells.flags[k] & view.emphasis) ? weak : strong;
      const r = lookup[entry];
      const g = lookup[entry + 1];
      const b = lookup[entry + 2];
      for (let y = Math.max(0, -top); y < side && top + y < height; y++) {
        for (let x = Math.max(0, -left); x < side && left + x < width; x++) {
          const shade = (cover[y * side + x] * alpha) / 255;
          if (shade === 0) continue;
          const p = 4 * ((top + y) * width + left + x);
          const under = pixels[p + 3] / 255;
          const total = shade + under * (1 - shade);
          const own = shade / total;
          pixels[p] += (r - pixels[p]) * own;
          pixels[p + 1] += (g - pixels[p + 1]) * own;
          pixels[p + 2] += (b - pixels[p + 2]) * own;
          pixels[p + 3] = 255 * total;
        }
      }
    }
  }

  /** For masses of small points: whole pixels, one write each. */
  function putMany(pixels: Uint32Array, width: number, height: number, view: View) {
    const { n, x, y, x1, y1, codes, flags } = gathered();
    const { camera, frame, ratio } = view;
    const scale = (unit(camera, frame) * ratio) / MAX_16;
    const [x0, y0] = toScreen(camera, frame, 0, 0).map((value) => value * ratio + 0.5);
    const side = Math.max(1, Math.round(view.size * ratio));
    const paint = (alpha: number) => {
      const table = new Uint8Array(lookup);
      for (let e = 3; e < table.length; e += 4) if (table[e]) table[e] = Math.round(255 * alpha);
      return new Uint32Array(table.buffer);
    };
    const strong = paint(1);
    const weak = paint(1 - view.fade);
    const { t, emphasis } = view;
    const still = t === 0 || x1 === x;
    const [right, bottom] = [width - side, height - side];
    for (let k = 0; k < n; k++) {
      const colour = (emphasis !== 0 && (flags[k] & emphasis) === 0 ? weak : strong)[codes[k]];
      if (colour >>> 24 === 0 || x[k] === MISSING) continue;
      const qx = still ? x[k] : x[k] + (x1[k] - x[k]) * t;
      const qy = still ? y[k] : y[k] + (y1[k] - y[k]) * t;
      const left = (x0 + qx * scale) | 0;
      const top = (y0 - qy * scale) | 0;
      if (left < 0 || top < 0 || left > right || top > bottom) continue;
      let p = top * width + left;
      if (side === 2) {
        pixels[p] = colour;
        pixels[p + 1] = colour;
        p += width;
        pixels[p] = colour;
        pixels[p + 1] = colour;
      } else {
        for (let row = 0; row < side; row++, p += width) pixels.fill(colour, p, p + side);
      }
    }
  }

  /** How many cells lie on each place: the mean of their colours, as strong as the logarithm of their number. */
  function putDensity(pixels: Uint8ClampedArray, width: number, height: number, view: View) {
    const { n, x, y, x1, y1, codes, flags } = gathered();
    const { camera, frame, ratio, t, emphasis, fade } = view;
    const scale = (unit(camera, frame) * ratio) / MAX_16 / BIN;
    const [x0, y0] = toScreen(camera, frame, 0, 0).map((value) => (value * ratio) / BIN);
    if (sums.length !== 4 * width * height) sums = new Float32Array(4 * width * height);
    else sums.fill(0);
    for (let k = 0; k < n; k++) {
      const entry = 4 * codes[k];
      if (lookup[entry + 3] === 0 || x[k] === MISSING) continue;
      const left = (x0 + (x[k] + (x1[k] - x[k]) * t) * scale) | 0;
      const top = (y0 - (y[k] + (y1[k] - y[k]) * t) * scale) | 0;
      if (left < 0 || top < 0 || left >= width || top >= height) continue;
      const weight = emphasis !== 0 && (flags[k] & emphasis) === 0 ? 1 - fade : 1;
      const p = 4 * (top * width + left);
      sums[p] += weight * lookup[entry];
      sums[p + 1] += weight * lookup[entry + 1];
      sums[p + 2] += weight * lookup[entry + 2];
      sums[p + 3] += weight;
    }
    let most = 1;
    for (let p = 3; p < sums.length; p += 4) if (sums[p] > most) most = sums[p];
    // Half of the greatest number is as strong as it gets: one heap of cells must not dim all others.
    const top = 1 / Math.log1p(most / 2);
    for (let p = 0; p < sums.length; p += 4) {
      const weight = sums[p + 3];
      if (weight === 0) continue;
      pixels[p] = sums[p] / weight;
      pixels[p + 1] = sums[p + 1] / weight;
      pixels[p + 2] = sums[p + 2] / weight;
      pixels[p + 3] = 255 * Math.min(1, 0.12 + 0.88 * Math.log1p(weight) * top);
    }
  }

  return {
    kind: "raster",
    canvas,
    get ink() {
      return dense ? null : context;
    },
    setPositions(first, second) {
      before = first as Uint16Array<ArrayBuffer>;
      after = second;
      drawn = { codes: drawn.codes, flags: drawn.flags };
    },
    setCodes(next) {
      codes = next as Uint8Array<ArrayBuffer>;
      drawn = { ...drawn, codes: undefined };
    },
    setFlags(next) {
      flags = next as Uint8Array<ArrayBuffer>;
      drawn = { ...drawn, flags: undefined };
    },
    setOrder(next) {
      if (next === order) return;
      order = next as Uint32Array<ArrayBuffer>;
      drawn = {};
    },
    setLookup(table) {
      lookup = table as Uint8Array<ArrayBuffer>;
    },
    draw(view) {
      dense = view.dense;
      const shrink = dense ? BIN : 1;
      const width = Math.max(1, Math.round((view.frame.width * view.ratio) / shrink));
      const height = Math.max(1, Math.round((view.frame.height * view.ratio) / shrink));
      if (canvas.width !== width || canvas.height !== height || !image) {
        canvas.width = width;
        canvas.height = height;
        image = context.createImageData(width, height);
      } else {
        image.data.fill(0);
      }
      if (before.length && codes.length * 2 === before.length) {
        if (dense) putDensity(image.data, width, height, view);
        else if (order.length > MANY && view.size * view.ratio < 3.5)
          putMany(new Uint32Array(image.data.buffer), width, height, view);
        else put(image.data, width, height, view);
      }
      context.putImageData(image, 0, 0);
    },
    finish() {
      context.getImageData(0, 0, 1, 1);
    },
    dispose() {
      image = null;
      drawn = {};
      canvas.width = 0;
    },
  };
}
