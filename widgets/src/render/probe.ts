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
  /** Why WebGL2 cannot be used, where it cannot. */
  refused?: string;
}

type Graphics = "processor" | "software" | "none";
let known: Graphics | null = null;

/** What WebGL2 draws with on this machine, as it says itself; asked once a page. */
export function graphics(): Graphics {
  known ??= asked();
  return known;
}

function asked(): Graphics {
  const gl = document.createElement("canvas").getContext("webgl2");
  if (!gl) return "none";
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  const name = `${gl.getParameter(gl.RENDERER)} ${info ? gl.getParameter(info.UNMASKED_RENDERER_WEBGL) : ""}`;
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(name) ? "software" : "processor";
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
 * Try WebGL2 with the real cells, and the raster where that is slow; keep the faster. WebGL in software is not tried: it never was
 * the faster one, and a single frame of a million cells takes it a second.
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
  if (choice === "webgl2" || (choice === "auto" && graphics() !== "software")) {
    try {
      first = webgl(makeCanvas());
      fill(first);
      alone = time(first, view);
      if (choice === "webgl2" || alone <= GOOD_MS) return { renderer: first };
    } catch (error) {
      // No WebGL2, or a driver that refuses: the raster draws instead, which is what this function is for.
      refused = (error as Error).message;
      first = null;
    }
  }
  const second = raster(makeCanvas());
  fill(second);
  if (first && alone <= ODDS * time(second, view)) {
    second.dispose();
    return { renderer: first };
  }
  first?.dispose();
  return { renderer: second, refused };
}
