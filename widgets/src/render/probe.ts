/** Which backend draws these cells faster on this machine: tried, where there is a graphics processor. */

import { raster } from "./raster.ts";
import type { PointRenderer, View } from "./renderer.ts";
import { webgl } from "./webgl.ts";

/** A frame that is this quick on a graphics processor needs no contest. */
const GOOD_MS = 1;
/** Frames that are waited for together: waiting alone takes a millisecond or more where a graphics processor draws. */
const FRAMES = 4;
/** After a frame that takes so long no others are drawn. */
const SLOW_MS = 60;
/** How many times faster the raster must be: what it takes to bring a picture to the screen is not timed, and WebGL's is there. */
const ODDS = 2;

export type Choice = "auto" | "webgl2" | "raster";

export interface Probe {
  renderer: PointRenderer;
  /** Whether the page is known to be drawn without a graphics processor. */
  software: boolean;
  /** Why WebGL2 cannot be used, where it cannot. */
  refused?: string;
}

/** Milliseconds of a frame, once the program is warm. */
function time(renderer: PointRenderer, view: View): number {
  const frames = (count: number) => {
    const begin = performance.now();
    for (let i = 0; i < count; i++) renderer.draw(view);
    renderer.finish();
    return (performance.now() - begin) / count;
  };
  // Shaders are compiled before the first one.
  frames(1);
  const alone = frames(1);
  return alone > SLOW_MS ? alone : Math.min(alone, frames(FRAMES));
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
  let first: PointRenderer | null = null;
  let refused: string | undefined;
  let alone = Infinity;
  let software = false;
  if (choice !== "raster") {
    try {
      first = webgl(makeCanvas());
      ({ software } = first);
      if (choice === "auto" && software) {
        // It never was the faster one, and a single frame of a million cells takes it a second.
        first.dispose();
        first = null;
      } else {
        fill(first);
        alone = time(first, view);
        if (choice === "webgl2" || alone <= GOOD_MS) return { renderer: first, software };
      }
    } catch (error) {
      // No WebGL2, or a driver that refuses: the raster draws instead, which is what this function is for.
      refused = (error as Error).message;
      first = null;
      software = true;
    }
  }
  const second = raster(makeCanvas());
  fill(second);
  if (!first) return { renderer: second, software, refused };
  if (alone <= ODDS * time(second, view)) {
    second.dispose();
    return { renderer: first, software };
  }
  first.dispose();
  return { renderer: second, software };
}
