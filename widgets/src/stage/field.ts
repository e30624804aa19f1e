/** The displacement field: cells that move are gathered in squares of the screen's size, one arrow for each square. */

import { unit } from "../render/camera.ts";
import { MISSING } from "../render/renderer.ts";
import type { Arrow, Scene } from "./scene.ts";

/** Side of a square, in CSS pixels at the zoom for which the field is made. */
const SQUARE_PX = 30;

export function displacements(scene: Scene): Arrow[] {
  const { before, after, codes, lookup } = scene.picture!;
  if (!after) return [];
  const side = SQUARE_PX / unit(scene.camera, scene.frame);
  return gather(before, after, (i) => scene.moved[i] === 1 && lookup[4 * codes[i] + 3] !== 0, side);
}

/** Arrows from the mean place before to the mean place after, over the cells of each square that `takes` lets in. */
export function gather(
  before: Uint16Array,
  after: Uint16Array,
  takes: (cell: number) => boolean,
  side: number,
): Arrow[] {
  const across = Math.ceil(1 / side) + 1;
  const sums = new Map<number, Arrow>();
  for (let i = 0, n = before.length >> 1; i < n; i++) {
    if (before[2 * i] === MISSING || after[2 * i] === MISSING || !takes(i)) continue;
    const [x, y] = [before[2 * i] / 65535, before[2 * i + 1] / 65535];
    const square = Math.floor(y / side) * across + Math.floor(x / side);
    let sum = sums.get(square);
    if (!sum) {
      sum = { x: 0, y: 0, dx: 0, dy: 0, cells: 0 };
      sums.set(square, sum);
    }
    sum.x += x;
    sum.y += y;
    sum.dx += after[2 * i] / 65535 - x;
    sum.dy += after[2 * i + 1] / 65535 - y;
    sum.cells++;
  }
  return [...sums.values()].map(({ x, y, dx, dy, cells }) => ({
    x: x / cells,
    y: y / cells,
    dx: dx / cells,
    dy: dy / cells,
    cells,
  }));
}
