/** Answers of genes at a few doses, and what lies between them: an estimate, marked as such. */

import { between } from "./pchip.ts";
import type { Doses } from "./reducers.ts";
import type { EffectRow, Perturbation } from "./types.ts";

/** One gene at one dose, as it was computed; the other genes are unchanged. */
export interface Response {
  gene: string;
  dose: number;
  perturbation: Perturbation;
  /** Places after, as uint16 pairs. */
  after: Uint16Array;
}

/** What is shown until the exact answer is there. */
export interface Estimate {
  perturbation: Perturbation | null;
  after: Uint16Array | null;
}

/** The response to doses of which one gene's alone is not 1; null where none is, or where it was not computed. */
export function respond(responses: readonly Response[], doses: Doses): Response | null {
  const changed = Object.keys(doses).find((name) => doses[name] !== 1);
  return changed === undefined ? null : respondTo(responses, changed, doses);
}

/** The response to the dose of one gene: as computed at a computed dose, interpolated between two. */
export function respondTo(responses: readonly Response[], gene: string, doses: Doses): Response | null {
  const own = curveOf(responses, gene);
  if (own.length === 0) return null;
  const dose = doses[gene];
  const { below, above, value } = between(
    own.map((response) => response.dose),
    dose,
  );
  if (below === above) return { ...own[below], perturbation: { ...own[below].perturbation, doses } };
  const nearest = dose - own[below].dose < own[above].dose - dose ? own[below] : own[above];
  const after = new Uint16Array(nearest.after.length);
  for (let i = 0; i < after.length; i++) after[i] = Math.round(value((k) => own[k].after[i]));
  const rows = nearest.perturbation.rows.map((row) => rowBetween(row, own, value));
  return { gene, dose, after, perturbation: { ...nearest.perturbation, doses, rows, interpolated: true } };
}

/**
 * Where cells go when genes turn from doses whose exact answer is known to others: each gene's own movement is added to it,
 * which leaves out how genes act on each other.
 *
 * @param known The exact answer and its doses; where nothing was changed, the cells as they are and no perturbation.
 * @returns Null where a gene that turns has no curve that reaches so far.
 */
export function addUp(
  responses: readonly Response[],
  known: { doses: Doses; places: Uint16Array; perturbation: Perturbation | null },
  doses: Doses,
): Estimate | null {
  const names = [...new Set([...Object.keys(doses), ...Object.keys(known.doses)])];
  const turned = names.filter((name) => (doses[name] ?? 1) !== (known.doses[name] ?? 1));
  const sum = Float32Array.from(known.places);
  const effects = new Map<string, number>();
  for (const gene of turned) {
    const [from, to] = [known.doses[gene] ?? 1, doses[gene] ?? 1];
    const own = curveOf(responses, gene);
    if (!reaches(own, from) || !reaches(own, to)) return null;
    const all = own.map((response) => response.dose);
    const [was, is] = [between(all, from), between(all, to)];
    for (let i = 0; i < sum.length; i++) {
      const at = (k: number) => own[k].after[i];
      sum[i] += is.value(at) - was.value(at);
    }
    for (const row of own[0].perturbation.rows) {
      const at = (k: number) => rowLike(row, own[k])?.effect ?? 0;
      const key = `${row.readout} ${row.group}`;
      effects.set(key, (effects.get(key) ?? 0) + is.value(at) - was.value(at));
    }
  }
  const after = Uint16Array.from(sum, (value) => Math.min(65535, Math.max(0, Math.round(value))));
  if (!known.perturbation) return { perturbation: null, after };
  // Curves hold the shift alone; of what else was read out a moved slider leaves nothing that could be told.
  const unknown = turned.length > 0 ? Number.NaN : 0;
  const rows = known.perturbation.rows.map((row) => {
    const effect = (row.effect ?? Number.NaN) + (effects.get(`${row.readout} ${row.group}`) ?? unknown);
    return {
      ...unproven(row),
      // A shift is a length.
      effect: Number.isNaN(effect) ? null : row.readout === "shift" ? Math.max(0, effect) : effect,
      effect_expressing: null,
      // Comparable genes were turned to the doses before.
      null_mean: null,
      null_sd: null,
      null_low: null,
      null_high: null,
    };
  });
  return { perturbation: { ...known.perturbation, doses, rows, null: "none", interpolated: true }, after };
}

/** A gene's answers by ascending dose. */
export function curveOf(responses: readonly Response[], gene: string): Response[] {
  return responses.filter((response) => response.gene === gene).sort((a, b) => a.dose - b.dose);
}

/** Whether a curve has been computed as far as a dose. */
export function reaches(curve: readonly Response[], dose: number): boolean {
  return curve.length > 0 && curve[0].dose <= dose && dose <= curve[curve.length - 1].dose;
}

function rowLike(row: EffectRow, { perturbation }: Response): EffectRow | undefined {
  return perturbation.rows.find(({ group, readout }) => group === row.group && readout === row.readout);
}

/** What is told of an exact answer only; curves are of all cells, whichever of them were tested. */
function unproven(row: EffectRow): EffectRow {
  return {
    ...row,
    effect_tested: null,
    n_tested: 0,
    p_value: null,
    q_value: null,
    verdict: "between two computed doses",
  };
}

function rowBetween(
  row: EffectRow,
  curve: readonly Response[],
  value: (at: (k: number) => number) => number,
): EffectRow {
  const same = curve.map((response) => rowLike(row, response));
  const number = (
    key: "effect" | "effect_expressing" | "null_mean" | "null_sd" | "null_low" | "null_high",
  ) => {
    const found = value((k) => same[k]?.[key] ?? Number.NaN);
    return Number.isNaN(found) ? null : found;
  };
  return {
    ...unproven(row),
    effect: number("effect"),
    effect_expressing: number("effect_expressing"),
    null_mean: number("null_mean"),
    null_sd: number("null_sd"),
    null_low: number("null_low"),
    null_high: number("null_high"),
  };
}
