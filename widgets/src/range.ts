/** The part of a continuous colour that is shown: in values as Python keeps it, in codes as the cells have them. */

import { same } from "./history.ts";
import { MAX_CODE, NAN_CODE } from "./palette.ts";
import type { SessionState } from "./types.ts";

export type Range = readonly [number, number];

interface Scaled {
  min?: number;
  max?: number;
}

/** A value's code; beyond the ends of the scale that of the nearer end. */
function codeAt(value: number, { min = 0, max = 0 }: Scaled): number {
  if (max <= min) return 0;
  return Math.min(MAX_CODE, Math.max(0, Math.round(((value - min) / (max - min)) * MAX_CODE)));
}

/** Codes of the least and the greatest value that is shown. */
export function codesOf(range: Range | null | undefined, column: Scaled): Range {
  return range ? [codeAt(range[0], column), codeAt(range[1], column)] : [0, MAX_CODE];
}

/** Values of two codes, with no more digits than tell steps apart; null where that is the whole scale. */
export function rangeOf([low, high]: Range, { min = 0, max = 0 }: Scaled): [number, number] | null {
  if (low <= 0 && high >= MAX_CODE) return null;
  const value = (code: number) => Number((min + ((max - min) * code) / MAX_CODE).toPrecision(6));
  return [value(low), value(high)];
}

/** One byte per code, 1 = not shown; a cell without a value is in no range. */
export function beyondRange(range: Range, column: Scaled): Uint8Array {
  const [low, high] = codesOf(range, column);
  const flags = new Uint8Array(256);
  for (let code = 0; code <= MAX_CODE; code++) if (code < low || code > high) flags[code] = 1;
  flags[NAN_CODE] = 1;
  return flags;
}

/** Two thumbs after one of them was moved: neither goes past the other. */
export function moved(codes: Range, which: "low" | "high", code: number): Range {
  return which === "low" ? [Math.min(code, codes[1]), codes[1]] : [codes[0], Math.max(code, codes[0])];
}

/** A change of the state; another colour takes away the range of the one before. */
export function withRange(change: Partial<SessionState>, now: SessionState): Partial<SessionState> {
  const other = "colour" in change && !same(change.colour, now.colour);
  return other && !("range" in change) && now.range ? { ...change, range: null } : change;
}
