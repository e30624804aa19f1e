/** A gene along pseudotime: means in stretches that hold the same number of cells each. */

import { MAX_CODE, NAN_CODE } from "./palette.ts";

export interface TrendPoint {
  /** Mean pseudotime of the stretch, 0..1. */
  time: number;
  mean: number;
  /** Standard error of the mean. */
  error: number;
  cells: number;
}

const STRETCHES = 12;

export function trend(
  times: Uint8Array,
  column: { codes: Uint8Array; min?: number; max?: number },
  stretches = STRETCHES,
): TrendPoint[] {
  const { codes, min = 0, max = 0 } = column;
  const cells: number[] = [];
  for (let i = 0; i < codes.length; i++) if (times[i] !== NAN_CODE && codes[i] !== NAN_CODE) cells.push(i);
  cells.sort((a, b) => times[a] - times[b]);
  const count = Math.min(stretches, cells.length);
  const points: TrendPoint[] = [];
  for (let s = 0; s < count; s++) {
    const part = cells.slice(
      Math.floor((s * cells.length) / count),
      Math.floor(((s + 1) * cells.length) / count),
    );
    const n = part.length;
    const value = (i: number) => min + ((max - min) * codes[i]) / MAX_CODE;
    const mean = part.reduce((sum, i) => sum + value(i), 0) / n;
    const spread = part.reduce((sum, i) => sum + (value(i) - mean) ** 2, 0);
    points.push({
      time: part.reduce((sum, i) => sum + times[i] / MAX_CODE, 0) / n,
      mean,
      error: n > 1 ? Math.sqrt(spread / (n - 1) / n) : 0,
      cells: n,
    });
  }
  return points;
}
