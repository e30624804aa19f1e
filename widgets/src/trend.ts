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

interface Values {
  codes: Uint8Array;
  min?: number;
  max?: number;
}

/** Of each gene's values what was computed last, for as long as they are kept. */
const known = new WeakMap<Values, { times: Uint8Array; points: TrendPoint[] }>();

/** As `trend`, computed once for a gene and an order: a scrubber asks for it in every frame. */
export function trendOnce(times: Uint8Array, column: Values): TrendPoint[] {
  let found = known.get(column);
  if (found?.times !== times) {
    found = { times, points: trend(times, column) };
    known.set(column, found);
  }
  return found.points;
}

export function trend(times: Uint8Array, column: Values, stretches = STRETCHES): TrendPoint[] {
  const { codes, min = 0, max = 0 } = column;
  // In the order of time; of one time, as they come. Times are bytes, so that counting them sorts a million cells at once.
  const begins = new Uint32Array(256);
  let n = 0;
  for (let i = 0; i < codes.length; i++) {
    if (times[i] === NAN_CODE || codes[i] === NAN_CODE) continue;
    begins[times[i] + 1]++;
    n++;
  }
  for (let time = 1; time < 256; time++) begins[time] += begins[time - 1];
  const cells = new Uint32Array(n);
  for (let i = 0; i < codes.length; i++)
    if (times[i] !== NAN_CODE && codes[i] !== NAN_CODE) cells[begins[times[i]]++] = i;
  const count = Math.min(stretches, n);
  const value = (cell: number) => min + ((max - min) * codes[cell]) / MAX_CODE;
  const points: TrendPoint[] = [];
  for (let s = 0; s < count; s++) {
    const part = cells.subarray(Math.floor((s * n) / count), Math.floor(((s + 1) * n) / count));
    let [time, sum, spread] = [0, 0, 0];
    for (const cell of part) {
      time += times[cell] / MAX_CODE;
      sum += value(cell);
    }
    const mean = sum / part.length;
    for (const cell of part) spread += (value(cell) - mean) ** 2;
    points.push({
      time: time / part.length,
      mean,
      error: part.length > 1 ? Math.sqrt(spread / (part.length - 1) / part.length) : 0,
      cells: part.length,
    });
  }
  return points;
}
