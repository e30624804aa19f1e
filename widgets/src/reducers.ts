/** The bench's small decisions as pure functions: doses, legend, selection, type-ahead. */

import { NAN_CODE } from "./palette.ts";
import { MISSING } from "./render/renderer.ts";
import type { EffectRow } from "./types.ts";

// ---------------------------------------------------------------------------------------- doses

export type Doses = Readonly<Record<string, number>>;

export const DOSE_MAX = 2;
export const DOSE_STEP = 0.05;
/** Doses with a meaning of their own; a slider that comes this near falls into them. */
const DETENTS = [0, 1, DOSE_MAX];
const DETENT_REACH = 0.06;

/** A slider's position as a dose: within bounds, in steps, and caught by knockout, unchanged and double. */
export function snapDose(value: number): number {
  if (!Number.isFinite(value)) return 1;
  const bounded = Math.min(DOSE_MAX, Math.max(0, value));
  for (const detent of DETENTS) if (Math.abs(bounded - detent) < DETENT_REACH) return detent;
  return Math.round(bounded / DOSE_STEP) / Math.round(1 / DOSE_STEP);
}

/** The dose that a key leads to: one step at a time, as the keys could never leave a detent that caught them. */
export function keyedDose(key: string, dose: number): number | null {
  const jumps: Record<string, number> = {
    ArrowLeft: dose - DOSE_STEP,
    ArrowDown: dose - DOSE_STEP,
    ArrowRight: dose + DOSE_STEP,
    ArrowUp: dose + DOSE_STEP,
    PageDown: dose - 0.25,
    PageUp: dose + 0.25,
    Home: 0,
    End: DOSE_MAX,
  };
  const next = jumps[key];
  return next === undefined ? null : Math.round(100 * Math.min(DOSE_MAX, Math.max(0, next))) / 100;
}

export function withDose(doses: Doses, gene: string, dose: number): Doses {
  return { ...doses, [gene]: dose };
}

export function withoutGene(doses: Doses, gene: string): Doses {
  return Object.fromEntries(Object.entries(doses).filter(([name]) => name !== gene));
}

/** Whether two sets of doses ask for the same; a gene at 1 is unchanged and counts as absent. */
export function sameDoses(a: Doses | undefined, b: Doses | undefined): boolean {
  const changed = (doses: Doses | undefined) => Object.entries(doses ?? {}).filter(([, dose]) => dose !== 1);
  const left = changed(a);
  const right = new Map(changed(b));
  return left.length === right.size && left.every(([gene, dose]) => right.get(gene) === dose);
}

export function anyChange(doses: Doses | undefined): boolean {
  return !sameDoses(doses, {});
}

/** Whether a perturbation sets genes to absolute levels, which only Python does. */
export function hasLevels(shown: { set_to?: Readonly<Record<string, number>> } | null): boolean {
  return Object.keys(shown?.set_to ?? {}).length > 0;
}

/** What a perturbation changes, in words: doses that are not 1, and absolute levels. */
export function changeWords(
  shown: { doses: Doses; set_to?: Readonly<Record<string, number>> } | null,
  between = " ",
): string {
  const levels = Object.entries(shown?.set_to ?? {}).map(
    ([gene, level]) => `${gene}${between}set to ${Number(level.toPrecision(4))} per 10,000`,
  );
  return [dosesWords(shown?.doses, between), ...levels].filter(Boolean).join(", ");
}

/** A dose in words. */
export function doseWords(dose: number): string {
  if (dose === 0) return "knocked out";
  if (dose === 1) return "unchanged";
  if (dose < 1) return `${Math.round(dose * 100)} % of its counts`;
  return `${Number(dose.toFixed(2))} × its counts`;
}

/** Doses in words, those that change something. */
export function dosesWords(doses: Doses | undefined, between = " "): string {
  const changed = Object.entries(doses ?? {}).filter(([, dose]) => dose !== 1);
  return changed.map(([gene, dose]) => `${gene}${between}${doseWords(dose)}`).join(", ");
}

// -------------------------------------------------------------------------------------- effects

/** Whether doses can be set here: where a kernel answers them, or the page holds answers. */
export function canPerturb(
  panels: readonly Pick<Named, "component" | "error">[] | undefined,
  meta: { static: boolean; responses?: readonly string[] },
): boolean {
  const there = (panels ?? []).some(({ component, error }) => component === "perturb" && !error);
  return there && (!meta.static || !!meta.responses?.length);
}

/** Where nearly all comparable genes lie. */
export function band({
  null_low: low,
  null_high: high,
}: Pick<EffectRow, "null_low" | "null_high">): [number, number] | null {
  return low == null || high == null ? null : [low, high];
}

/** The effect that stands beside the null: of the cells that were tested, where that was done. */
export function besideNull(row: EffectRow): number | null {
  return band(row) && row.effect_tested != null ? row.effect_tested : row.effect;
}

/** Of how many cells `besideNull` is where these are some of the group's; 0 where it is of all of them. */
export function testedOf(row: EffectRow): number {
  const some = band(row) && row.effect_tested != null ? (row.n_tested ?? 0) : 0;
  return some < row.n_cells ? some : 0;
}

/** Whether a group stays apart from comparable genes when it is corrected for the number of groups: what fills its dot. */
export function isDistinct({ q_value: q }: Pick<EffectRow, "q_value">): boolean {
  return q != null && q <= 0.05;
}

/** The verdict, which is that of p alone, with what the correction makes of it. */
export function verdictWords(row: Pick<EffectRow, "verdict" | "q_value">): string {
  // "Stronger than comparable genes", "further from the target than …".
  const apart = row.verdict.endsWith(" than comparable genes");
  const alone = apart && row.q_value != null && !isDistinct(row);
  return alone ? `${row.verdict}, not after correction` : row.verdict;
}

/** Groups of which a model sees least first; those that are alike stay in their order. */
export function mostLost<Row extends { lost: number | null }>(rows: readonly Row[]): Row[] {
  return [...rows].sort((a, b) => (b.lost ?? -1) - (a.lost ?? -1));
}

// --------------------------------------------------------------------------------------- legend

/** Hide a category or show it again. */
export function toggleHidden(hidden: readonly string[], label: string): string[] {
  return hidden.includes(label) ? hidden.filter((other) => other !== label) : [...hidden, label];
}

/** Show one category alone; a second time shows all. */
export function soloHidden(hidden: readonly string[], label: string, labels: readonly string[]): string[] {
  const others = labels.filter((other) => other !== label);
  const alone = !hidden.includes(label) && others.every((other) => hidden.includes(other));
  return alone ? [] : others;
}

/** One byte per class code, 1 = hidden. */
export function hiddenCodes(hidden: readonly string[], labels: readonly string[]): Uint8Array {
  const flags = new Uint8Array(256);
  const names = new Set(hidden);
  labels.forEach((label, code) => {
    if (names.has(label)) flags[code] = 1;
  });
  return flags;
}

// ------------------------------------------------------------------------------------ selection

export type Combine = "replace" | "add" | "subtract";

/** Which way a new selection combines, by the keys that are held. */
export function combineMode(event: { shiftKey: boolean; altKey: boolean }): Combine {
  if (event.altKey) return "subtract";
  return event.shiftKey ? "add" : "replace";
}

export function combine(before: Uint8Array, drawn: Uint8Array, mode: Combine): Uint8Array {
  if (mode === "replace" || before.length !== drawn.length) return drawn.slice();
  const result = before.slice();
  for (let i = 0; i < result.length; i++) {
    if (drawn[i]) result[i] = mode === "add" ? 1 : 0;
  }
  return result;
}

/** Cells that are on the plane: of no hidden class and with a place. One byte each. */
export function shownCells(
  places: Uint16Array,
  codes: Uint8Array | null,
  hidden: Uint8Array | null,
): Uint8Array {
  const mask = new Uint8Array(places.length >> 1);
  for (let i = 0; i < mask.length; i++) {
    mask[i] = places[2 * i] === MISSING || (codes && hidden?.[codes[i]]) ? 0 : 1;
  }
  return mask;
}

/** Cells of one class. */
export function ofClass(codes: Uint8Array, code: number): Uint8Array {
  return Uint8Array.from(codes, (other) => (other === code ? 1 : 0));
}

/** What is shown and not selected. */
export function inverted(selection: Uint8Array, shown: Uint8Array): Uint8Array {
  return shown.map((there, i) => (there && !selection[i] ? 1 : 0));
}

export function countOnes(mask: Uint8Array): number {
  let count = 0;
  for (let i = 0; i < mask.length; i++) count += mask[i];
  return count;
}

// ----------------------------------------------------------------------------------- type-ahead

/**
 * The best matches for what has been typed: the name itself, names that begin with it, then names that hold it; shorter
 * names first within each. Case is ignored. A name is found by its symbol too.
 */
export function typeAhead(
  names: readonly string[],
  typed: string,
  limit: number,
  symbols: ReadonlyMap<string, string> = new Map(),
): string[] {
  const query = typed.trim().toLowerCase();
  if (!query) return names.slice(0, limit);
  const begins: { name: string; word: string }[] = [];
  const holds: typeof begins = [];
  for (const name of names) {
    const symbol = symbols.get(name);
    const words = symbol === undefined ? [name] : [symbol, name];
    const at = words.map((word) => word.toLowerCase().indexOf(query));
    const found = at.includes(0) ? at.indexOf(0) : at.findIndex((place) => place > 0);
    if (found >= 0) (at[found] === 0 ? begins : holds).push({ name, word: words[found] });
  }
  const byLength = ({ word: a }: { word: string }, { word: b }: { word: string }) =>
    a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
  return [...begins.sort(byLength), ...holds.sort(byLength)].slice(0, limit).map(({ name }) => name);
}

/** Steps from one text to another: a letter put in, left out, or exchanged. Stops counting above `most`. */
function editDistance(a: string, b: string, most: number): number {
  if (Math.abs(a.length - b.length) > most) return most + 1;
  let above = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const exchanged = above[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(exchanged, above[j] + 1, row[j - 1] + 1));
    }
    if (Math.min(...row) > most) return most + 1;
    above = row;
  }
  return above[b.length];
}

/** A name with its letters and digits made alike: CD3X is built as CD3D, and not as CD34. */
function shapeOf(name: string): string {
  return name.replace(/[a-z]/g, "a").replace(/[0-9]/g, "0");
}

/** Names that somebody who mistyped may have meant, nearest first; none where nothing is near. Case is ignored. */
export function nearest(names: readonly string[], typed: string, limit = 3): string[] {
  const query = typed.trim().toLowerCase();
  const most = Math.min(3, Math.floor(query.length / 3));
  if (most === 0) return [];
  const shape = shapeOf(query);
  const found: { name: string; steps: number; strange: number }[] = [];
  for (const name of names) {
    const lower = name.toLowerCase();
    const steps = editDistance(query, lower, most);
    if (steps <= most) found.push({ name, steps, strange: shapeOf(lower) === shape ? 0 : 1 });
  }
  found.sort(
    (a, b) => a.steps - b.steps || a.strange - b.strange || (a.name < b.name ? -1 : a.name > b.name ? 1 : 0),
  );
  return found.slice(0, limit).map(({ name }) => name);
}

/** What to say where no name contains what was typed. */
export function notFound(what: string, names: readonly string[], typed: string): string {
  const near = nearest(names, typed);
  const last = near.pop();
  const meant = near.length > 0 ? `${near.join(", ")} or ${last}` : last;
  return `No ${what} name contains “${typed.trim()}”.${meant ? ` Did you mean ${meant}?` : ""}`;
}

/** Where the matched part of a name stands, to be set in bold: [before, match, after]. */
export function matchParts(name: string, typed: string): [string, string, string] {
  const query = typed.trim().toLowerCase();
  const at = query ? name.toLowerCase().indexOf(query) : -1;
  if (at < 0) return [name, "", ""];
  return [name.slice(0, at), name.slice(at, at + query.length), name.slice(at + query.length)];
}

// --------------------------------------------------------------------------------------- models

/** Whether a registry's row is the model that is picked, by whatever name it was picked ("starter", "models:/starter/1"). */
export function isPicked(
  row: { source: string; sources?: readonly string[]; name: string; version: string | null },
  picked: string | null,
): boolean {
  const { source, name, version, sources = [source, name, `models:/${name}/${version}`] } = row;
  return picked !== null && (source === picked || sources.includes(picked));
}

/** Whether a panel is the one that the state names: by its id ("scfm.perturb"), or as people write it ("perturb", "Perturb"). */
export function isCalled(
  panel: { id: string; component: string | null; title: string },
  name: string | null,
): boolean {
  if (name === null) return false;
  return (
    panel.id === name ||
    [panel.component, panel.title].some((word) => word?.toLowerCase() === name.toLowerCase())
  );
}

interface Named {
  id: string;
  component: string | null;
  title: string;
  error: string | null;
}

/** The stage has its own place, and the screen is a part of Perturb. */
const PLACED = ["embedding", "screen"];

/**
 * Panels at the side, which of them is open, and whether the screen is asked for, which is a part of Perturb. Where the state
 * names none that is there, the first one is open.
 */
export function sidePanels<Panel extends Named>(panels: readonly Panel[], name: string | null) {
  const whole = panels.filter(({ error }) => !error);
  const side = whole.filter(({ component }) => !PLACED.includes(component ?? ""));
  const screening = whole.find((panel) => isCalled(panel, name))?.component === "screen";
  const asked = side.find((panel) => (screening ? panel.component === "perturb" : isCalled(panel, name)));
  return { side, current: asked ?? side[0], screening };
}

// --------------------------------------------------------------------------------------- groups

/** The column that is asked for, if it tells groups apart: not too many, and every cell in one. */
export function groupingOf(
  columns: readonly { name: string; groups?: boolean }[],
  asked: string | null,
): string | null {
  return columns.find(({ name, groups }) => groups && name === asked)?.name ?? null;
}

/** Why the column that is asked for tells no groups apart; "" where it does, or where it is not there. */
export function noGroups(columns: readonly { name: string; why?: string }[], asked: string | null): string {
  const why = columns.find(({ name }) => name === asked)?.why;
  return why ? `No groups of ${asked}: ${why}.` : "";
}

/** The root that is picked, if it is there: a group of other groups than these is none. */
export function rootIn<Root extends { group?: string; cell?: number }>(
  labels: readonly string[],
  root: Root | null,
): Root | null {
  return root && (root.cell !== undefined || labels.includes(root.group ?? "")) ? root : null;
}

/** The plane that a trajectory's twin lies on: principal components of the counts, without any model. */
export const TWIN = "twin";

/** What colours the plane beside the first one: on the twin's plane its own pseudotime stands for that of the model. */
export function colourBeside<Colour extends { by: string; name: string }>(
  colour: Colour | null,
  second: string | null,
): Colour | null {
  return second === TWIN && colour?.by === "result" && colour.name === "pseudotime"
    ? { ...colour, name: "twin" }
    : colour;
}

/**
 * What the cells are painted by: the last column stays until the next one is here. Where none is to come (it has been refused,
 * or cells are to have one colour) none does: its colours would be taken for what is no more.
 */
export function columnShown<C>(column: C | null, last: C | null, coming: boolean): C | null {
  return column ?? (coming ? last : null);
}

/** A column of the same kind in which no cell has a value. */
export function without<C extends { codes: Uint8Array }>(column: C | null): C | null {
  return column && { ...column, codes: new Uint8Array(column.codes.length).fill(NAN_CODE) };
}

// ----------------------------------------------------------------------------------------- jobs

/** Work that a person has started and waits for; what else runs gives way to it. */
const OWN_WORK = ["embed", "trajectory", "compare", "screen", "import"];

export function isBusy(job: { kind: string; status: string } | null): boolean {
  return (
    job !== null && OWN_WORK.includes(job.kind) && (job.status === "running" || job.status === "cancelling")
  );
}

/**
 * How work that a person has started goes, in words that change rarely: its beginning, its quarters, its end. Its figures
 * change several times a second, which nobody can listen to; a failure is told as an alert.
 */
export function spokenJob(
  job: { kind: string; label: string; status: string; done: number; total: number; note: string } | null,
): string {
  if (!job || !OWN_WORK.includes(job.kind)) return "";
  const { label, status, done, total, note } = job;
  if (status === "running") {
    const quarter = total > 0 ? 25 * Math.floor((4 * done) / total) : 0;
    return quarter > 0 ? `${label}: ${quarter} %` : `${label}: begun`;
  }
  if (status === "done") return `${label}: done. ${note}`.trim();
  return status === "cancelled" ? `${label}: stopped. ${note}`.trim() : "";
}
