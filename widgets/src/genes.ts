/** Genes by the names of their columns, and by the symbols that people know where those names are ids. */

import { notFound, typeAhead } from "./reducers.ts";
import type { Store } from "./store.ts";
import type { Option } from "./ui/Combobox.tsx";

/** A line for each gene; `labelled` = each name is followed by a tab and its symbol, if it has one. */
export function readGenes(
  text: string,
  labelled: boolean,
): { names: string[]; symbols: Map<string, string> } {
  const lines = text ? text.split("\n") : [];
  const symbols = new Map<string, string>();
  if (!labelled) return { names: lines, symbols };
  const names = lines.map((line) => {
    const at = line.lastIndexOf("\t");
    const name = line.slice(0, at);
    if (at + 1 < line.length) symbols.set(name, line.slice(at + 1));
    return name;
  });
  return { names, symbols };
}

/** Suggestions among `names` for what has been typed: the symbol with the id beside it. */
export function geneOptions(store: Store, names: readonly string[], typed: string, limit: number): Option[] {
  return typeAhead(names, typed, limit, store.symbols).map((name) => {
    const symbol = store.symbols.get(name);
    return { value: name, label: symbol ?? name, hint: symbol === undefined ? undefined : name };
  });
}

/** What to say where no gene among `names` is called so; `others` may have been meant too. */
export function noGene(
  store: Store,
  names: readonly string[],
  typed: string,
  others: readonly string[] = [],
): string {
  const known = names.map((name) => store.symbols.get(name) ?? name);
  return notFound(others.length > 0 ? "column or gene" : "gene", [...others, ...known], typed);
}

/** Between which values bars are drawn: from nothing to what is furthest from it, on either side. */
export function barRange(values: readonly (number | null)[]): { low: number; high: number } {
  const known = values.filter((value) => value !== null);
  const low = Math.min(0, ...known);
  return { low, high: Math.max(low + 1e-9, 0, ...known) };
}
