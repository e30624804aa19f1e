/** Genes that the model expects to change most with the doses on the bench. */

import * as format from "../format.ts";
import { useStore } from "../hooks.ts";
import { anyChange, dosesWords, sameDoses } from "../reducers.ts";

const SHOWN = 10;

export function Changed() {
  const store = useStore("_changed", "doses", "state", "_perturbation", "genes");
  const changed = store.get("_changed");
  if (!changed || changed.rows.length === 0 || !anyChange(store.doses)) return null;
  const rows = changed.rows.slice(0, SHOWN);
  const most = Math.max(...rows.map(({ log2_fold }) => Math.abs(log2_fold)), 1e-9);
  const stale = !sameDoses(changed.doses, store.doses);
  // An exported page has nobody to compute them.
  if (stale && store.get("_meta").static) return null;
  return (
    <section class={stale ? "sl-stale" : ""} aria-label="Genes expected to change">
      <h2 class="sl-heading">
        Expected to change most
        {stale && !store.refused && <span class="sl-computing">computing…</span>}
      </h2>
      {stale && store.refused && (
        <p class="sl-outdated">Of {dosesWords(changed.doses)}; there is no answer to the present doses.</p>
      )}
      <p class="sl-muted">
        log2 of what {changed.model} predicts after and before, in the cells that changed. Predicted, not
        measured.
      </p>
      <ul class="sl-folds">
        {rows.map(({ gene, log2_fold: fold, before, after }) => (
          <li key={gene} title={`${format.number(before)} → ${format.number(after)}`}>
            <button
              type="button"
              class="sl-link"
              title={`Colour by ${store.geneLabel(gene)}`}
              onClick={() => store.patch({ colour: { by: "gene", name: gene }, hidden: [] })}
            >
              <i>{store.geneLabel(gene)}</i>
            </button>
            <span class="sl-fold" aria-hidden="true">
              <span
                class={fold < 0 ? "sl-down" : "sl-up"}
                style={{ width: `${(50 * Math.abs(fold)) / most}%` }}
              />
            </span>
            <span class="sl-number">
              {fold > 0 ? "+" : ""}
              {format.number(fold)}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}
