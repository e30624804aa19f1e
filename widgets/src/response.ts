/** Answers of one gene at a few doses, and what lies between them: a straight line, marked as such. */

import type { Doses } from "./reducers.ts";
import type { EffectRow, Perturbation } from "./types.ts";

/** One gene at one dose, as it was computed before the export. */
export interface Response {
  gene: string;
  dose: number;
  perturbation: Perturbation;
  /** Places after, as uint16 pairs. */
  after: Uint16Array;
}

/** The response to doses of which one gene's alone is not 1; null where none is, or where it was not computed. */
export function respond(responses: readonly Response[], doses: Doses): Response | null {
  const changed = Object.keys(doses).find((name) => doses[name] !== 1);
  return changed === undefined ? null : respondTo(responses, changed, doses);
}

/** The response to the dose of one gene: as computed at a computed dose, a straight line between two. */
export function respondTo(responses: readonly Response[], gene: string, doses: Doses): Response | null {
  const dose = doses[gene];
  const own = responses.filter((response) => response.gene === gene).sort((a, b) => a.dose - b.dose);
  if (own.length === 0) return null;
  const above = own.find((response) => response.dose >= dose) ?? own[own.length - 1];
  const below = [...own].reverse().find((response) => response.dose <= dose) ?? own[0];
  if (above === below || above.dose === below.dose) {
    return { ...above, perturbation: { ...above.perturbation, doses } };
  }
  const u = (dose - below.dose) / (above.dose - below.dose);
  const after = new Uint16Array(above.after.length);
  for (let i = 0; i < after.length; i++)
    after[i] = Math.round(below.after[i] + (above.after[i] - below.after[i]) * u);
  const nearest = u < 0.5 ? below : above;
  const rows = nearest.perturbation.rows.map((row) => lineBetween(row, below, above, u));
  return { gene, dose, after, perturbation: { ...nearest.perturbation, doses, rows, interpolated: true } };
}

function lineBetween(row: EffectRow, below: Response, above: Response, u: number): EffectRow {
  const same = (response: Response) =>
    response.perturbation.rows.find(({ group, readout }) => group === row.group && readout === row.readout);
  const [a, b] = [same(below), same(above)];
  const line = (key: "effect" | "effect_expressing" | "null_mean" | "null_sd" | "null_low" | "null_high") => {
    const [x, y] = [a?.[key], b?.[key]];
    return x == null || y == null ? null : x + (y - x) * u;
  };
  return {
    ...row,
    effect: line("effect"),
    effect_expressing: line("effect_expressing"),
    null_mean: line("null_mean"),
    null_sd: line("null_sd"),
    null_low: line("null_low"),
    null_high: line("null_high"),
    p_value: null,
    q_value: null,
    verdict: "between two computed doses",
  };
}
