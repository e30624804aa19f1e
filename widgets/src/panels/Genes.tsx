/** One gene: where it is found, what the model holds to be like it, and attention to and from it. */

import { useEffect, useState } from "preact/hooks";
import * as format from "../format.ts";
import { barRange, geneOptions, noGene } from "../genes.ts";
import { useKept, useScope, useStore } from "../hooks.ts";
import { isPicked, withDose } from "../reducers.ts";
import { Superseded } from "../requests.ts";
import { Combobox } from "../ui/Combobox.tsx";

const SUGGESTED = 50;
/** How much more often than by chance a gene is near to others from which on it is called a hub. */
const HUB = 5;

interface Alike {
  /** Null while the model is not open. */
  neighbours: { gene: string; likeness: number; hubness: number; measured: boolean }[] | null;
  note?: string;
  model?: string;
  /** What else could explain that they are alike. */
  beside?: string;
}

interface Mean {
  group: string;
  n: number;
  mean: number | null;
  /** Of cells that have it; only counts tell. */
  share?: number;
}

interface Told extends Alike {
  gene: string;
  groups: { groupby: string | null; unit: string; rows: Mean[] };
}

interface Partner {
  gene: string;
  weight: number;
  cells: number;
}

interface Attention {
  gene: string;
  cells: number;
  model?: string;
  to: Partner[];
  from: Partner[];
}

export function Genes({ show }: { show: (component: string) => void }) {
  const { view } = useScope();
  const store = useStore("state", "genes", "_models");
  const { gene, model, groupby } = store.state;
  const [told, setTold] = useState<Told | null>(null);
  const [fault, setFault] = useState<string | null>(null);

  useEffect(() => {
    setTold(null);
    setFault(null);
    if (!gene) return;
    let gone = false;
    const tell = (answer: Told) => {
      if (gone) return;
      setTold(answer);
      if (answer.neighbours) return;
      view.question<Alike>({ type: "alike", gene }).then(
        (alike) => !gone && setTold({ ...answer, ...alike }),
        (error: Error) => !gone && setTold({ ...answer, neighbours: [], note: error.message }),
      );
    };
    view
      .question<Told>({ type: "gene", gene }, "gene")
      .then(tell, (error: Error) => !gone && !(error instanceof Superseded) && setFault(error.message));
    return () => {
      gone = true;
    };
  }, [gene, model, groupby, view]);

  return (
    <div class="sl-panel">
      {!gene && (
        <p class="sl-empty-line">Pick a gene to see where it is found and what the model makes of it.</p>
      )}
      <Combobox
        name="gene"
        label="Gene to look at"
        placeholder="Any gene…"
        shown={gene ? store.geneLabel(gene) : ""}
        suggest={(typed) => geneOptions(store, store.genes ?? [], typed, SUGGESTED)}
        onOpen={() => void store.geneNames().catch(() => {})}
        waiting={!store.genes}
        onPick={({ value }) => store.patch({ gene: value })}
        empty={(typed) => (store.genes ? noGene(store, store.genes, typed) : "Reading the gene names…")}
      />
      {fault && (
        <p class="sl-failed" role="alert">
          {fault}
        </p>
      )}
      {gene && !told && !fault && (
        <p class="sl-muted sl-computing" role="status">
          Looking…
        </p>
      )}
      {told && (
        <>
          <div class="sl-actions">
            <button
              type="button"
              class="sl-button"
              onClick={() => store.patch({ colour: { by: "gene", name: told.gene }, hidden: [] })}
            >
              Colour by it
            </button>
            <button
              type="button"
              class="sl-button"
              onClick={() => {
                if (!(told.gene in store.doses)) store.setDoses(withDose(store.doses, told.gene, 1), true);
                show("perturb");
              }}
            >
              Perturb it
            </button>
          </div>
          <Groups told={told} />
          <Neighbours told={told} />
          <AttentionOf key={`${told.gene} ${model}`} gene={told.gene} />
        </>
      )}
    </div>
  );
}

function Groups({ told }: { told: Told }) {
  const { rows, groupby, unit } = told.groups;
  const shares = rows.some(({ share }) => share !== undefined);
  const { low, high } = barRange(rows.map(({ mean }) => mean));
  const along = (value: number) => `${(100 * value) / (high - low)}%`;
  return (
    <section>
      <h2 class="sl-heading">Expression{groupby ? ` by ${groupby}` : ""}</h2>
      <table class="sl-audit">
        <caption class="sl-muted">
          mean of {unit}
          {shares && ", and share of cells that have it"}
        </caption>
        <tbody>
          {rows.map(({ group, mean, share, n }) => (
            <tr key={group} title={`${format.count(n)} cells`}>
              <th scope="row" title={group}>
                {group === "all" ? "All cells" : group}
              </th>
              <td class="sl-audit-bar">
                <span
                  style={{
                    width: along(Math.abs(mean ?? 0)),
                    marginLeft: along(Math.min(mean ?? 0, 0) - low),
                  }}
                />
              </td>
              <td class="sl-number">{format.number(mean)}</td>
              {shares && <td class="sl-number sl-muted">{format.percent(share)}</td>}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function Neighbours({ told }: { told: Told }) {
  const store = useStore("state", "genes");
  return (
    <section>
      <h2 class="sl-heading">Alike in the model</h2>
      {told.note && <p class="sl-muted">{told.note}</p>}
      {!told.neighbours && (
        <p class="sl-muted sl-computing" role="status">
          Opening the model…
        </p>
      )}
      {!told.note && told.neighbours && (
        <>
          <p class="sl-muted">Cosine of gene embeddings of {told.model}; a click looks at that gene.</p>
          <ul class="sl-chips">
            {told.neighbours.map(({ gene, likeness, hubness, measured }) => (
              <li key={gene}>
                <button
                  type="button"
                  class="sl-gene-chip"
                  disabled={!measured}
                  title={`${measured ? `Look at ${store.geneLabel(gene)}` : `${gene} is not in these cells`}${
                    hubness > HUB ? "; a hub, near to very many genes" : ""
                  }`}
                  onClick={() => store.patch({ gene })}
                >
                  <i>{store.geneLabel(gene)}</i> <span class="sl-muted">{likeness.toFixed(2)}</span>
                  {hubness > HUB && <span class="sl-muted"> hub</span>}
                </button>
              </li>
            ))}
          </ul>
          {told.beside && <p class="sl-muted">{told.beside}</p>}
        </>
      )}
    </section>
  );
}

function AttentionOf({ gene }: { gene: string }) {
  const { store, view } = useScope();
  const model = store.get("_models")?.rows?.find((row) => isPicked(row, store.state.model));
  const [found, setFound] = useKept<Attention | "asking" | { fault: string } | null>(
    `attention ${gene} ${store.state.model}`,
    null,
  );
  if (!store.state.model || (model && !model.abilities.includes("attention"))) return null;
  const ask = () => {
    setFound("asking");
    view
      .question<Attention>({ type: "attention", gene })
      .then(setFound, (error: Error) => setFound({ fault: error.message }));
  };
  return (
    <section>
      <h2 class="sl-heading">Attention</h2>
      {(found === null || (typeof found === "object" && "fault" in found)) && (
        <button type="button" class="sl-button" onClick={ask}>
          Compute attention to and from {store.geneLabel(gene)}
        </button>
      )}
      {found === "asking" && <p class="sl-muted sl-computing">computing…</p>}
      {found && typeof found === "object" && "fault" in found && <p class="sl-failed">{found.fault}</p>}
      {found && typeof found === "object" && "to" in found && (
        <>
          <p class="sl-muted">
            Last layer, mean over heads, in the {format.plural(found.cells, "cell")} with most counts of it.
            What a model attends to is no proof of regulation.
          </p>
          <div class="sl-two-columns">
            <Partners title={`${store.geneLabel(gene)} reads`} partners={found.to} />
            <Partners title={`read ${store.geneLabel(gene)}`} partners={found.from} />
          </div>
        </>
      )}
    </section>
  );
}

function Partners({ title, partners }: { title: string; partners: Partner[] }) {
  const { store } = useScope();
  const most = Math.max(...partners.map(({ weight }) => weight), 1e-12);
  return (
    <div>
      <h3 class="sl-small-heading">{title}</h3>
      {partners.length === 0 && <p class="sl-muted">none</p>}
      <ul class="sl-partners">
        {partners.map(({ gene, weight, cells }) => (
          <li key={gene} title={`${format.number(weight)} in ${cells} cells`}>
            <i>{store.geneLabel(gene)}</i>
            <span class="sl-partner-bar">
              <span style={{ width: `${(100 * weight) / most}%` }} />
            </span>
          </li>
        ))}
      </ul>
    </div>
  );
}
