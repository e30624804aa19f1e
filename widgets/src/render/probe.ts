/** Which backend draws these cells faster on this machine: tried, not guessed from the browser's name. */

import { raster } from "./raster.ts";
import type { PointRenderer, View } from "./renderer.ts";
import { webgl } from "./webgl.ts";

/** A frame that is this quick needs no contest: no software draws it so soon. */
const GOOD_MS = 1;
const FRAMES = 5;
/** After a frame that takes so long the others are not waited for. */
const SLOW_MS = 60;

export type Choice = "auto" | "webgl2" | "raster";

export interface Probe {
  renderer: PointRenderer;
  /** What was measured, for whoever wants to know. */
  timings: Partial<Record<"webgl2" | "raster", number>>;
  /** Why WebGL2 cannot be used, where it cannot. */
  refused?: string;
}

/** Milliseconds of a frame: the best of a few, since at first a program is slow that will be fast. */
function time(renderer: PointRenderer, view: View): number {
  let best = Infinity;
  for (let i = 0; i < FRAMES; i++) {
    const begin = performance.now();
    renderer.draw(view);
    renderer.finish();
    best = Math.min(best, performance.now() - begin);
    // The first one has the shaders to be compiled before it.
    if (i > 0 && best > SLOW_MS) break;
  }
  return best;
}

/**
 * Try WebGL2 with the real cells; where it fails or is slow try the raster as well and keep the faster.
 *
 * @param makeCanvas A canvas can hold one kind of context only, so each backend gets its own.
 * @param fill Gives a new backend the cells.
 */
export function choose(
  makeCanvas: () => HTMLCanvasElement,
  fill: (renderer: PointRenderer) => void,
  view: View,
  choice: Choice = "auto",
): Probe {
  const timings: Probe["timings"] = {};
  let first: PointRenderer | null = null;
  let refused: string | undefined;
  if (choice !== "raster") {
    try {
      first = webgl(makeCanvas());
      fill(first);
      timings.webgl2 = time(first, view);
      if (choice === "webgl2" || timings.webgl2 <= GOOD_MS) return { renderer: first, timings };
    } catch (error) {
      // No WebGL2, or a driver that refuses: the raster draws instead, which is what this function is for.
      refused = (error as Error).message;
      first = null;
    }
  }
  const second = raster(makeCanvas());
  fill(second);
  timings.raster = time(second, view);
  if (first && timings.webgl2! <= timings.raster) {
    second.dispose();
    return { renderer: first, timings };
  }
  first?.dispose();
  return { renderer: second, timings, refused };
}
