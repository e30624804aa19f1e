/** Genes at other doses, and what that does to the cells: beside what comparable genes do. */

import { geneOptions, noGene } from "../genes.ts";
import { useStore } from "../hooks.ts";
import { type Doses, doseWords, sameDoses, withDose, withoutGene } from "../reducers.ts";
import { Combobox } from "../ui/Combobox.tsx";
import { JobStatus } from "../ui/Progress.tsx";
import { Changed } from "./Changed.tsx";
import { DoseCard } from "./DoseCard.tsx";
import { Effects } from "./Effects.tsx";
import { Grouping } from "./Grouping.tsx";
import { ScreenPanel } from "./Screen.tsx";

const SUGGESTED = 50;

interface Props {
  show: (component: string) => void;
  /** Whether the state names the screen, which is a part of this panel. */
  screening: boolean;
}

/** Doses of single genes, or every gene in turn. */
export function Perturb({ show, screening }: Props) {
  const store = useStore("_panels", "_meta");
  const named = (name: string) =>
    (store.get("_panels") ?? []).find(({ component, error }) => component === name && !error);
  const open = (name: string) => store.patch({ panel: named(name)?.id ?? null });
  if (!named("screen") || store.get("_meta").static) return <DosePanel show={show} />;
  return (
    <>
      <div class="sl-switch" role="group" aria-label="What is asked">
        <button type="button" aria-pressed={!screening} onClick={() => open("perturb")}>
          Doses
        </button>
        <button type="button" aria-pressed={screening} onClick={() => open("screen")}>
          Screen every gene
        </button>
      </div>
      {screening ? <ScreenPanel show={show} /> : <DosePanel show={show} />}
    </>
  );
}

function DosePanel({ show }: { show: (component: string) => void }) {
  const store = useStore("doses", "_perturbation", "genes", "state", "_meta", "_job");
  const meta = store.get("_meta");
  const { doses } = store;
  const genes = Object.keys(doses);
  const known = store.known?.model === store.state.model ? store.known.names : null;
  const offered = meta.static ? (meta.responses ?? []) : (known ?? store.genes ?? []);

  if (!store.state.model && !meta.static) {
    return (
      <div class="sl-panel">
        <div class="sl-blank">
          <p>A model has to answer what a gene does.</p>
          <button type="button" class="sl-button" onClick={() => show("models")}>
            Pick a model
          </button>
        </div>
        {/* One that Python has set is there without any. */}
        <Effects />
      </div>
    );
  }
  // A page without answers for sliders may hold an effect all the same.
  if (meta.static && !meta.responses?.length)
    return (
      <div class="sl-panel">
        <Effects />
      </div>
    );

  const set = (gene: string, dose: number, commit: boolean) => {
    if (store.t < 1) store.setT(1);
    // The exported page holds the answer of each gene alone, so the others go back to where they were.
    const others = meta.static ? Object.fromEntries(genes.map((name) => [name, 1])) : doses;
    store.setDoses(withDose(others, gene, dose), commit);
  };

  return (
    <div class="sl-panel">
      {/* Above the field: the list of suggestions opens below it. */}
      {genes.length === 0 && (
        <p class="sl-empty-line">
          Add a gene, then turn its dose: 0 knocks it out, 1 leaves it as it is, 2 doubles it.
        </p>
      )}
      <Combobox
        name="add-gene"
        label="Add a gene to perturb"
        placeholder="Add a gene…"
        suggest={(typed) =>
          geneOptions(
            store,
            offered.filter((name) => !(name in doses)),
            typed,
            SUGGESTED,
          )
        }
        onOpen={() => {
          if (!meta.static)
            void store
              .geneNames()
              .then(() => store.askKnown())
              .catch(() => {});
        }}
        waiting={!meta.static && (!store.genes || (!known && store.told !== store.state.model))}
        onPick={({ value }) => store.setDoses(withDose(doses, value, 1), true)}
        empty={(typed) => {
          if (meta.static)
            return `This page has answers for ${offered.map((name) => store.geneLabel(name)).join(", ") || "no gene"} only.`;
          if (!store.genes) return "Reading the gene names…";
          const query = typed.trim().toLowerCase();
          const there = store.genes.some(
            (name) => name.toLowerCase() === query || store.symbols.get(name)?.toLowerCase() === query,
          );
          return there ? `The model does not know ${typed.trim()}.` : noGene(store, offered, typed);
        }}
      />
      {genes.map((gene) => (
        <DoseCard
          key={gene}
          gene={gene}
          dose={doses[gene]}
          onDose={(dose, commit) => set(gene, dose, commit)}
          onRemove={() => store.setDoses(withoutGene(doses, gene), true)}
        />
      ))}
      {meta.static && genes.length > 1 && <Together />}
      {genes.length > 0 && !meta.static && <Grouping />}
      <JobStatus kinds={["perturb", "null"]} ends="stopped" />
      <Effects />
      <Changed />
    </div>
  );
}

/** What an exported page can tell of several genes: the doses that were computed on the bench. */
function Together() {
  const store = useStore("doses", "genes", "_meta");
  const held = store.get("_meta").together ?? [];
  const words = (doses: Doses) =>
    Object.entries(doses)
      .map(([gene, dose]) => `${store.geneLabel(gene)} ${doseWords(dose)}`)
      .join(", ");
  return (
    <>
      <p class="sl-muted">
        This page holds the answer of each gene alone; moving one puts the others back to 1.
        {held.length > 0 && " Together it holds:"}
      </p>
      {held.map((doses) => (
        <button
          type="button"
          key={words(doses)}
          class="sl-preset"
          aria-pressed={sameDoses(doses, store.doses)}
          onClick={() => {
            const others = Object.fromEntries(Object.keys(store.doses).map((gene) => [gene, 1]));
            store.setDoses({ ...others, ...doses }, true);
          }}
        >
          {words(doses)}
        </button>
      ))}
    </>
  );
}
