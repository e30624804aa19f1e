/** What colours the cells: a column of obs, a result, or any gene. */

import { geneOptions, noGene } from "../genes.ts";
import { useStore } from "../hooks.ts";
import type { Store } from "../store.ts";
import type { ColourBy, Trajectory } from "../types.ts";
import { Combobox, type Option } from "../ui/Combobox.tsx";

const SUGGESTED_GENES = 40;

interface ResultColumn {
  name: string;
  title: string;
  needs: "_perturbation" | "_trajectory" | "_compared";
}

const RESULTS: ResultColumn[] = [
  { name: "shift", title: "How far each cell moved", needs: "_perturbation" },
  { name: "error", title: "Projection error of the new places", needs: "_perturbation" },
  { name: "pseudotime", title: "Pseudotime", needs: "_trajectory" },
  { name: "branch", title: "Branch", needs: "_trajectory" },
];

const TWIN: ResultColumn = {
  name: "twin",
  title: "Pseudotime on principal components",
  needs: "_trajectory",
};
const SHARED: ResultColumn = {
  name: "shared",
  title: "Neighbours that both models share",
  needs: "_compared",
};
/** Before the name of an end: the probability of each cell to come there. */
export const FATE = "fate:";

/** What a trajectory says of each cell beside its order and its branches. */
export function resultsOf(found: Trajectory | null): ResultColumn[] {
  const fates = (found?.ends ?? []).map((end): ResultColumn => {
    return { name: `${FATE}${end}`, title: `Probability of ${end}`, needs: "_trajectory" };
  });
  return [...(found?.twin ? [TWIN] : []), ...fates];
}

export function ColourPicker() {
  const store = useStore("state", "_meta", "genes", "_perturbation", "_trajectory", "_compared", "columns");
  const { colour } = store.state;

  const suggest = (typed: string): Option[] => {
    const query = typed.trim().toLowerCase();
    const fits = (text: string) => !query || text.toLowerCase().includes(query);
    const { static: alone, results: kept } = store.get("_meta");
    const has = (name: string, needs: (typeof RESULTS)[number]["needs"]) =>
      alone ? kept?.includes(name) : store.get(needs) !== null;
    const results = [...RESULTS, ...resultsOf(store.get("_trajectory")), SHARED]
      .filter(({ name, needs, title }) => has(name, needs) && fits(title))
      .map(({ name, title }) => ({
        value: `result:${name}`,
        label: title,
        group: "Results",
      }));
    const obs = (store.get("_meta")?.obs ?? [])
      .filter(({ name }) => fits(name))
      .map(({ name, kind }) => ({
        value: `obs:${name}`,
        label: name,
        group: "Columns of obs",
        hint: kind === "category" ? "groups" : "numbers",
      }));
    const genes = geneOptions(store, store.genes ?? [], typed, SUGGESTED_GENES).map((option) => ({
      ...option,
      value: `gene:${option.value}`,
      group: "Genes",
    }));
    return [...results, ...obs, ...genes];
  };

  const fault = store.columnFault(colour);
  return (
    <div class="sl-colour">
      <span class="sl-field-label" aria-hidden="true">
        Colour
      </span>
      <Combobox
        name="colour"
        label="Colour cells by a column or a gene"
        placeholder="Type a column or any gene…"
        shown={titleOf(store, colour)}
        suggest={suggest}
        onOpen={() => void store.geneNames().catch(() => {})}
        waiting={!store.genes}
        onPick={({ value }) => {
          const [by, ...name] = value.split(":");
          store.patch({ colour: { by: by as ColourBy["by"], name: name.join(":") }, hidden: [] });
        }}
        empty={(typed) => {
          if (!store.genes) return "Reading the gene names…";
          const columns = store.get("_meta").obs.map(({ name }) => name);
          return noGene(store, store.genes, typed, columns);
        }}
      />
      {fault && <span class="sl-inline-fault">{fault}</span>}
    </div>
  );
}

function titleOf(store: Store, colour: ColourBy | null): string {
  if (!colour) return "";
  if (colour.by === "gene") return store.geneLabel(colour.name);
  if (colour.by === "obs") return colour.name;
  if (colour.name.startsWith(FATE)) return `Probability of ${colour.name.slice(FATE.length)}`;
  return [...RESULTS, TWIN, SHARED].find(({ name }) => name === colour.name)?.title ?? colour.name;
}
