/** What Python keeps in the widget's traits, as the front end reads it. `widgets/scfm_widgets/lab.py` is the other side. */

import type { Descriptor } from "./codec.ts";
import type { ScaleName } from "./palette.ts";
import type { Doses } from "./reducers.ts";

export interface ColumnInfo {
  name: string;
  kind: "category" | "number";
  /** Whether effects can be told for its groups: not too many, and every cell in one. */
  groups?: boolean;
  /** Why they cannot, of a column of labels, in a few words. */
  why?: string;
}

export interface Meta {
  n: number;
  n_genes: number;
  /** Whether genes are named by ids and have symbols. */
  symbols?: boolean;
  title: string;
  /** Columns of `obs` that can colour the cells or group them. */
  obs: ColumnInfo[];
  /** A page that was exported: no kernel behind it. */
  static: boolean;
  /** Whether the hints for a first visit are still to be shown. */
  tour?: boolean;
  /** What the page leaves out, in words; exported pages only. */
  left_out?: string;
  /** Results that the exported page has columns of. */
  results?: string[];
  /** Genes whose responses the exported page holds. */
  responses?: string[];
  /** Doses of several genes together whose answers it holds. */
  together?: Doses[];
}

export interface ColourBy {
  by: "obs" | "gene" | "result";
  name: string;
}

/** The small state that both sides read and write. */
export interface SessionState {
  model: string | null;
  colour: ColourBy | null;
  hidden: string[];
  /** Least and greatest value that is shown, where numbers colour the cells; null = all. */
  range?: [number, number] | null;
  groupby: string | null;
  layout: string | null;
  panel: string | null;
  labels: boolean;
  paths: boolean;
  root: { group?: string; cell?: number } | null;
  /** Key of the plane that is shown beside the first one. */
  second: string | null;
  /** Arrows from before to after, averaged over places near each other. */
  field: boolean;
  /** Density instead of points; null = where there are very many cells. */
  density: boolean | null;
  /** The gene that the Genes panel tells of. */
  gene: string | null;
  /** Genes that are followed along a trajectory, and whether along each path. */
  follow?: string[];
  by_path?: boolean;
  /** The model that the picked one is compared with. */
  against: string | null;
}

export interface ModelRow {
  source: string;
  /** All that the model may have been picked by: by number, by each alias, by a bare name. */
  sources: string[];
  /** Name and version in the registry; null for what is not in it. */
  reference: string | null;
  created: string;
  name: string;
  version: string | null;
  aliases: string[];
  family: string;
  kind: string;
  licence: string | null;
  commercial: boolean | null;
  parameters: number | null;
  tags: string[];
  fit: { verdict: "fits" | "tight" | "does not fit" | "unknown"; reason: string; source: string };
  abilities: string[];
  description: string;
  /** Why it cannot be picked, or null. */
  blocked: string | null;
}

export interface Models {
  status: "loading" | "ready";
  rows: ModelRow[];
  note: string;
}

export interface AuditRow {
  group: string;
  cells: number | null;
  matched: number | null;
  total: number | null;
  lost: number | null;
}

export interface Plan {
  model: string | null;
  /** "none": it failed. */
  status: "none" | "stopped" | "loading" | "ready";
  device?: string;
  precision?: string;
  memory?: string;
  seconds?: number | null;
  notes?: string[];
  fit?: ModelRow["fit"];
  audit?: { rows: AuditRow[]; overall: AuditRow; groupby: string | null; note: string };
}

export interface Job {
  id: number;
  kind: string;
  label: string;
  status: "running" | "cancelling" | "done" | "cancelled" | "failed";
  done: number;
  total: number;
  note: string;
  rate: number | null;
  /** What the rate counts per second. */
  unit?: string;
  left: number | null;
  seconds: number;
}

export interface EffectRow {
  gene: string;
  group: string;
  readout: string;
  effect: number | null;
  effect_expressing: number | null;
  /** Mean over the cells tested, which may be some of the group's: what the null stands beside. */
  effect_tested?: number | null;
  null_mean: number | null;
  null_sd: number | null;
  null_low: number | null;
  null_high: number | null;
  p_value: number | null;
  q_value: number | null;
  n_cells: number;
  n_expressing: number;
  n_changed: number;
  n_tested?: number;
  verdict: string;
}

export interface Perturbation {
  seq: number;
  doses: Doses;
  rows: EffectRow[];
  /** "pending" while the null is being computed, "ready" with it, "stopped" by hand, "none" where it was not asked for. */
  null: "pending" | "ready" | "stopped" | "none";
  moved: number;
  error_median: number | null;
  seconds: number | null;
  model: string | null;
  groupby: string | null;
  /** Absolute levels, in counts per 10,000, of genes that have no dose; only Python sets them. */
  set_to?: Record<string, number>;
  /** The model that made it, where it is another than the one that is picked. */
  of?: string | null;
  /** The state that the read-out towards a target is of. */
  target?: string | null;
  interpolated?: boolean;
  /** For each gene, in how many cells it is found. */
  expressing?: Record<string, number>;
}

/** A gene's answers at a few doses while the other genes are unchanged. */
export interface CurveInfo {
  gene: string;
  points: { dose: number; perturbation: Perturbation; offset: number; length: number }[];
}

export interface Trajectory {
  version: number;
  root: string;
  summary: string;
  /** `parting`: paths go on from here to more than one group. */
  nodes: { name: string; x: number; y: number; size: number; time: number | null; parting?: boolean }[];
  edges: { from: number; to: number; weight: number }[];
  paths: { name: string; points: number[] }[];
  /** The same on the plane beside the first one. */
  second: (Pick<Trajectory, "nodes" | "edges" | "paths"> & { key: string }) | null;
  charts: { light: string; dark: string } | null;
  /** Groups at which paths end. */
  ends: string[];
  /** By pseudotime; `fates` are mean probabilities of the ends, in their order. */
  groups: { group: string; n: number; time: number | null; fates: (number | null)[] }[];
  /** Groups at which paths part. */
  parting: string[];
  /** The same order on principal components; `agreement` is Spearman's. */
  twin: { agreement: number | null } | null;
  /** Why there is no twin. */
  twin_missing: string;
}

/** A gene that the model expects to change with the perturbation. */
export interface ChangedGene {
  gene: string;
  before: number;
  after: number;
  log2_fold: number;
}

/** Every gene at one dose, ranked. */
export interface Screen {
  version: number;
  dose: number;
  model: string;
  /** The state that the read-out towards a target is of. */
  target: string | null;
  summary: string;
  rows: {
    gene: string;
    group: string;
    readout: string;
    effect: number | null;
    null_mean: number | null;
    null_sd: number | null;
    p_value: number | null;
    q_value: number | null;
    n_cells: number;
  }[];
  genes: number;
  /** For each read-out and group, in how many rows the whole table tells of it. */
  totals: Record<string, Record<string, number>>;
}

/** A run that has ended. */
export interface Finished {
  id: number;
  kind: string;
  label: string;
  status: "done" | "cancelled" | "failed";
  note: string;
  seconds: number;
  done: number;
  model: string;
  at: string;
}

/** Two models on the same cells. */
export interface Compared {
  version: number;
  models: [string, string];
  groupby: string | null;
  n_neighbors: number;
  rows: {
    group: string;
    n_cells: number;
    overlap: number | null;
    expected_overlap: number | null;
    accuracy_a: number | null;
    accuracy_b: number | null;
  }[];
  summary: string;
}

export interface Fault {
  id: number;
  text: string;
  where: string;
}

export interface PanelInfo {
  id: string;
  plugin: string;
  title: string;
  component: string | null;
  esm: string | null;
  css: string | null;
  error: string | null;
}

export interface Places extends Descriptor {
  /** Part of the unit square that holds cells. */
  extent: [number, number];
  title: string;
}

export interface ColumnReply {
  key: string;
  kind: "category" | "number";
  labels?: string[];
  counts?: number[];
  missing: number;
  min?: number;
  max?: number;
  scale?: ScaleName;
  /** Code that holds all the categories beyond the first ones. */
  other?: number | null;
  title: string;
  unit?: string;
}

export interface Column extends ColumnReply {
  codes: Uint8Array;
}

/** Every trait by its name. */
export interface Traits {
  _uid: string;
  _meta: Meta;
  _panels: PanelInfo[];
  /** `second`: only the plane beside the first one offers it. */
  _layouts: { key: string; title: string; second?: boolean }[];
  _compared: Compared | null;
  _changed: { doses: Doses; model: string; rows: ChangedGene[] } | null;
  _screen: Screen | null;
  _runs: Finished[];
  _models: Models;
  _plan: Plan;
  _job: Job | null;
  _perturbation: Perturbation | null;
  /** Doses to which there will be no answer; `_errors` says why. */
  _refused: Doses | null;
  _curves: CurveInfo[];
  _curve_places: DataView;
  _trajectory: Trajectory | null;
  _errors: Fault[];
  _hardware: string;
  _xy: DataView;
  _xy_info: Places;
  _after: DataView;
  _after_info: Descriptor;
  _second: DataView;
  _second_info: Places;
  _selection: DataView;
  _selection_version: number;
  _data_version: number;
  /** Grows when columns, planes or counts of the cells are others than they were told. */
  _cells_version: number;
  state: SessionState;
  doses: Doses;
}
