/**
 * Raster backend: plain JavaScript into an image. For machines whose WebGL is missing or is drawn in software, where it
 * is the faster of the two for many cells.
 */

import { toScreen, unit } from "./camera.ts";
import { MISSING, opacity, type PointRenderer, type View } from "./renderer.ts";

const MAX_16 = 65535;
/** From so many cells on, whole pixels are drawn instead of blended discs. */
const MANY = 50_000;

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

  /** Draw one cell's disc over what is there. The image is premultiplied by nothing: its alpha is kept straight. */
  function put(pixels: Uint8ClampedArray, width: number, height: number, view: View) {
    const n = before.length >> 1;
    const { camera, frame, ratio } = view;
    const scale = (unit(camera, frame) * ratio) / MAX_16;
    const [x0, y0] = toScreen(camera, frame, 0, 0).map((value) => value * ratio);
    const { side, cover } = stamp(view.size * ratio);
    const half = (side - 1) / 2;
    const strong = opacity(n);
    const weak = strong * (1 - view.fade);
    const moved = after && view.t > 0 ? after : null;
    for (let k = 0; k < order.length; k++) {
      const i = order[k];
      const entry = 4 * codes[i];
      if (lookup[entry + 3] === 0 || before[2 * i] === MISSING) continue;
      let qx = before[2 * i];
      let qy = before[2 * i + 1];
      if (moved) {
        qx += (moved[2 * i] - qx) * view.t;
        qy += (moved[2 * i + 1] - qy) * view.t;
      }
      const left = Math.round(x0 + qx * scale - half);
      const top = Math.round(y0 - qy * scale - half);
      if (left + side <= 0 || top + side <= 0 || left >= width || top >= height) continue;
      const alpha = view.emphasis && !(flags[i] & view.emphasis) ? weak : strong;
      const [r, g, b] = [lookup[entry], lookup[entry + 1], lookup[entry + 2]];
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
    const { camera, frame, ratio } = view;
    const scale = (unit(camera, frame) * ratio) / MAX_16;
    const [x0, y0] = toScreen(camera, frame, 0, 0).map((value) => value * ratio);
    const side = Math.max(1, Math.round(view.size * ratio));
    const paint = (alpha: number) => {
      const table = new Uint8Array(lookup);
      for (let e = 3; e < table.length; e += 4) if (table[e]) table[e] = Math.round(255 * alpha);
      return new Uint32Array(table.buffer);
    };
    const strong = paint(1);
    const weak = paint(1 - view.fade);
    const moved = after && view.t > 0 ? after : before;
    const { t, emphasis } = view;
    for (let k = 0; k < order.length; k++) {
      const i = order[k];
      const colour = (emphasis && !(flags[i] & emphasis) ? weak : strong)[codes[i]];
      if (lookup[4 * codes[i] + 3] === 0 || before[2 * i] === MISSING) continue;
      const qx = before[2 * i] + (moved[2 * i] - before[2 * i]) * t;
      const qy = before[2 * i + 1] + (moved[2 * i + 1] - before[2 * i + 1]) * t;
      const left = Math.round(x0 + qx * scale);
      const top = Math.round(y0 - qy * scale);
      if (left < 0 || top < 0 || left + side > width || top + side > height) continue;
      for (let y = 0; y < side; y++) {
        const row = (top + y) * width + left;
        for (let x = 0; x < side; x++) pixels[row + x] = colour;
      }
    }
  }

  return {
    kind: "raster",
    canvas,
    setPositions(first, second) {
      before = first as Uint16Array<ArrayBuffer>;
      after = second;
    },
    setCodes(next) {
      codes = next as Uint8Array<ArrayBuffer>;
    },
    setFlags(next) {
      flags = next as Uint8Array<ArrayBuffer>;
    },
    setOrder(next) {
      order = next as Uint32Array<ArrayBuffer>;
    },
    setLookup(table) {
      lookup = table as Uint8Array<ArrayBuffer>;
    },
    draw(view) {
      const width = Math.max(1, Math.round(view.frame.width * view.ratio));
      const height = Math.max(1, Math.round(view.frame.height * view.ratio));
      if (canvas.width !== width || canvas.height !== height || !image) {
        canvas.width = width;
        canvas.height = height;
        image = context.createImageData(width, height);
      } else {
        image.data.fill(0);
      }
      if (before.length && codes.length * 2 === before.length) {
        if (order.length > MANY && view.size * view.ratio < 3.5) {
          putMany(new Uint32Array(image.data.buffer), width, height, view);
        } else {
          put(image.data, width, height, view);
        }
      }
      context.putImageData(image, 0, 0);
    },
    finish() {
      context.getImageData(0, 0, 1, 1);
    },
    dispose() {
      image = null;
      canvas.width = 0;
    },
  };
}
