/** A small bench without a kernel: the model of an exported page, filled by hand. */

import type { Response } from "../src/response.ts";
import { StandaloneModel } from "../src/standalone.ts";
import type { EffectRow, Perturbation } from "../src/types.ts";

export const N = 4;
export const BEFORE = Uint16Array.of(0, 0, 100, 100, 200, 200, 65535, 65535);

export function effect(gene: string, group: string, value: number, more: Partial<EffectRow> = {}): EffectRow {
  return {
    gene,
    group,
    readout: "shift",
    effect: value,
    effect_expressing: value,
    null_mean: null,
    null_sd: null,
    null_low: null,
    null_high: null,
    p_value: null,
    q_value: null,
    n_cells: N,
    n_expressing: 2,
    n_changed: 2,
    verdict: "",
    ...more,
  };
}

export function perturbation(gene: string, dose: number, rows: EffectRow[]): Perturbation {
  return {
    seq: 0,
    doses: { [gene]: dose },
    rows,
    null: "none",
    moved: 2,
    error_median: 0.1,
    seconds: 0.1,
    model: "starter",
    groupby: "cell_type",
  };
}

/** A gene whose knockout moves cell 1 by 40 to the left, and whose doubling moves it by 20 to the right. */
export function responses(gene: string): Response[] {
  const at = (dose: number, x: number, value: number) => {
    const after = BEFORE.slice();
    after[2] = x;
    return { gene, dose, after, perturbation: perturbation(gene, dose, [effect(gene, "all", value)]) };
  };
  return [at(0, 60, 4), at(1, 100, 0), at(2, 120, 2)];
}

export function model(more: Record<string, unknown> = {}, given: Response[] = responses("CD3D")) {
  const codes = Uint8Array.of(0, 1, 1, 255);
  const names = new TextEncoder().encode("CD3D\nCD3E\nLYZ");
  const data = new Uint8Array([...codes, ...names]);
  const replies = {
    "column:obs:cell_type": {
      content: {
        column: {
          key: "obs:cell_type",
          kind: "category",
          labels: ["B", "T"],
          counts: [1, 2],
          missing: 1,
          title: "cell_type",
        },
      },
      buffer: { offset: 0, length: 4 },
    },
    "column:result:shift": {
      content: {
        column: { key: "result:shift", kind: "number", min: 0, max: 1, missing: 0, title: "shift" },
      },
      buffer: { offset: 0, length: 4 },
    },
    genes: { content: { n: 3 }, buffer: { offset: 4, length: names.length } },
  };
  const traits = {
    _uid: "test",
    _meta: {
      n: N,
      n_genes: 3,
      title: "test",
      obs: [{ name: "cell_type", kind: "category" }],
      static: true,
    },
    _layouts: [],
    _panels: [],
    _errors: [],
    _job: null,
    _perturbation: null,
    _trajectory: null,
    _refused: null,
    _curves: [],
    _curve_places: new DataView(new ArrayBuffer(0)),
    _xy: new DataView(BEFORE.slice().buffer),
    _xy_info: { dtype: "uint16", n: 2 * N, version: 1, extent: [1, 1], title: "UMAP" },
    _after: new DataView(new ArrayBuffer(0)),
    _after_info: { dtype: "uint16", n: 0, version: 0 },
    _selection: new DataView(new ArrayBuffer(1)),
    _data_version: 0,
    _cells_version: 0,
    state: {
      model: "starter",
      colour: { by: "obs", name: "cell_type" },
      hidden: [],
      groupby: "cell_type",
      layout: null,
      panel: null,
      labels: true,
      paths: true,
      root: null,
    },
    doses: {},
    ...more,
  };
  return new StandaloneModel(
    traits,
    replies,
    given,
    ({ offset, length }) => new DataView(data.buffer, offset, length),
  );
}

/** Traits of one message of Python's, as a host gives them to a bench. */
export async function tell(behind: StandaloneModel, traits: Record<string, unknown>) {
  for (const [name, value] of Object.entries(traits)) behind.set(name, value);
  await Promise.resolve();
}
