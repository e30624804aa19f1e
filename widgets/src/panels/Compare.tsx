/** Two models, or two versions of one, on the same cells: side by side, and how far they agree. */

import * as format from "../format.ts";
import { useScope, useStore } from "../hooks.ts";
import { isBusy, isPicked } from "../reducers.ts";
import type { Compared } from "../types.ts";
import { JobStatus } from "../ui/Progress.tsx";
import { Grouping } from "./Grouping.tsx";

export function Compare({ show }: { show: (component: string) => void }) {
  const { prefix } = useScope();
  const store = useStore("_models", "_compared", "_job", "state", "_meta");
  const { model, against, groupby } = store.state;
  const rows = (store.get("_models")?.rows ?? []).filter(({ blocked }) => !blocked);
  const others = rows.filter((row) => !isPicked(row, model));
  const found = store.get("_compared");
  const running = isBusy(store.get("_job"));
  if (!model) {
    return (
      <div class="sl-panel">
        <div class="sl-blank">
          <p>Pick one model first; here it is held against another.</p>
          <button type="button" class="sl-button" onClick={() => show("models")}>
            Pick a model
          </button>
        </div>
      </div>
    );
  }
  const other = others.find((row) => isPicked(row, against));
  return (
    <div class="sl-panel">
      <label class="sl-field" for={`${prefix}-against`}>
        <span class="sl-field-label">Against</span>
        <select
          id={`${prefix}-against`}
          class="sl-select"
          value={other?.source ?? ""}
          onChange={(event) => store.patch({ against: event.currentTarget.value || null })}
        >
          <option value="" disabled>
            Another model
          </option>
          {others.map((row) => (
            <option key={row.source} value={row.source}>
              {row.name}
              {row.version ? ` v${row.version}` : ""}
              {row.kind === "baseline" ? " (floor)" : ""}
            </option>
          ))}
        </select>
      </label>
      <Grouping />
      <button
        type="button"
        class="sl-button sl-primary sl-wide"
        disabled={!other || running}
        onClick={() => void store.act({ type: "compare", against: other!.source, groupby })}
      >
        Compare on {format.plural(store.n, "cell")}
      </button>
      <JobStatus kinds={["compare"]} />
      {!found && !running && (
        <p class="sl-empty-line">
          Both models embed the same cells. Their planes stand side by side, a selection in one is shown in
          the other, and the figures say how far they see the same neighbours.
        </p>
      )}
      {found && <Found found={found} />}
    </div>
  );
}

function Found({ found }: { found: Compared }) {
  const store = useStore("state");
  const [all, ...groups] = found.rows;
  const shown = store.state.colour?.by === "result" && store.state.colour.name === "shared";
  return (
    <section class="sl-found">
      <p class="sl-lead">
        <b>{format.percent(all.overlap)}</b> of {found.n_neighbors} nearest neighbours shared
        <span class="sl-muted"> (by chance {format.percent(all.expected_overlap, 1)})</span>
      </p>
      <label class="sl-check">
        <input
          type="checkbox"
          checked={shown}
          onChange={(event) =>
            store.patch({
              colour: event.currentTarget.checked
                ? { by: "result", name: "shared" }
                : found.groupby
                  ? { by: "obs", name: found.groupby }
                  : null,
              hidden: [],
            })
          }
        />
        Colour by it
      </label>
      {found.groupby && (
        <>
          <h2 class="sl-heading">Neighbours of the same {found.groupby}</h2>
          <p class="sl-muted sl-key">
            <span>
              <span class="sl-key-dot sl-distinct" aria-hidden="true" /> {found.models[0]}
            </span>
            <span>
              <span class="sl-key-square" aria-hidden="true" /> {found.models[1]}
            </span>
          </p>
          <ul class="sl-effect-list">
            {[all, ...groups].map((row) => (
              <li key={row.group} class="sl-effect">
                <div class="sl-effect-head">
                  <span class="sl-effect-name" title={row.group}>
                    {row.group === "all" ? "All cells" : row.group}
                  </span>
                  <span class="sl-muted">{format.count(row.n_cells)}</span>
                  <span class="sl-number">
                    {format.percent(row.accuracy_a)} · {format.percent(row.accuracy_b)}
                  </span>
                </div>
                <Dots a={row.accuracy_a} b={row.accuracy_b} />
              </li>
            ))}
          </ul>
        </>
      )}
      <p class="sl-summary">{found.summary}</p>
    </section>
  );
}

function Dots({ a, b }: { a: number | null; b: number | null }) {
  const x = (value: number) => 6 + 260 * value;
  return (
    <svg viewBox="0 0 272 14" aria-hidden="true" preserveAspectRatio="none">
      <line class="sl-effect-line" x1={6} x2={266} y1={7} y2={7} />
      {a != null && b != null && <line class="sl-gap" x1={x(a)} x2={x(b)} y1={7} y2={7} />}
      {b != null && <rect class="sl-square" x={x(b) - 4} y={3} width={8} height={8} />}
      {a != null && <circle class="sl-effect-dot sl-distinct" cx={x(a)} cy={7} r={4.5} />}
    </svg>
  );
}
