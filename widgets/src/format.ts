/** Numbers for people. */

const WHOLE = new Intl.NumberFormat("en");
const SMALL = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

export function count(value: number | null | undefined): string {
  return value == null || !Number.isFinite(value) ? "–" : WHOLE.format(Math.round(value));
}

export function plural(value: number, one: string, many = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Three significant digits, with a true minus sign. */
export function number(value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  return text.replace("-", "−");
}

export function percent(share: number | null | undefined, digits = 0): string {
  return share == null || !Number.isFinite(share) ? "–" : `${(100 * share).toFixed(digits)} %`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds == null || !Number.isFinite(seconds)) return "–";
  if (seconds < 1) return "under a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

/** "genes × cells/s" is genes × cells per second; what is slow is told by two digits, as less than one of them is not one. */
export function rate(perSecond: number | null | undefined, unit = "cells"): string {
  if (!perSecond || !Number.isFinite(perSecond)) return "";
  const told = perSecond < 10 ? SMALL.format(perSecond) : count(perSecond);
  return `${told} ${told === "1" ? unit.replace(/s\b/g, "") : unit}/s`;
}

export function pValue(p: number | null | undefined): string {
  if (p == null || !Number.isFinite(p)) return "–";
  return p < 0.001 ? "< 0.001" : p.toFixed(p < 0.1 ? 3 : 2);
}

/** A dose as it stands beside its slider: 0, 0.55, 1, 1.5. */
export function dose(value: number): string {
  return String(Number(value.toFixed(2)));
}
