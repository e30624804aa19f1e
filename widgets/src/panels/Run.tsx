/** Before the run: what it will take and what the model will see. During it: how far it is. */

import { useEffect } from "preact/hooks";
import * as format from "../format.ts";
import { useKept, useScope, useStore } from "../hooks.ts";
import { isBusy, mostLost } from "../reducers.ts";
import type { AuditRow, Plan } from "../types.ts";
import { JobStatus } from "../ui/Progress.tsx";

export function Run({ show }: { show: (component: string) => void }) {
  const { prefix } = useScope();
  const store = useStore("_plan", "_job", "state", "_meta", "_layouts");
  const { model } = store.state;
  const plan = store.get("_plan");
  const [chosen, setLayout] = useKept("run.layout", "");
  const isStatic = store.get("_meta").static;
  const layouts = store.get("_layouts").filter(({ second }) => !second);
  const layout = layouts.some(({ key }) => key === chosen) ? chosen : "";

  useEffect(() => {
    if (model && !isStatic && plan?.model !== model) void store.act({ type: "plan", model });
  }, [model, plan?.model, store, isStatic]);

  if (!model) {
    return (
      <div class="sl-panel">
        <div class="sl-blank">
          <p>Nothing to run yet.</p>
          <button type="button" class="sl-button" onClick={() => show("models")}>
            Pick a model
          </button>
        </div>
      </div>
    );
  }
  const running = isBusy(store.get("_job"));
  const ready = plan?.model === model && plan.status === "ready";
  const stopped = plan?.model === model && plan.status === "stopped";
  const failed = stopped || (plan?.model === model && plan.status === "none");
  return (
    <div class="sl-panel">
      <h2 class="sl-heading">Plan</h2>
      {ready && <PlanFacts plan={plan} cells={store.n} />}
      {failed && (
        <div class="sl-blank">
          <p>
            {stopped ? "Planning was stopped." : `There is no plan for ${model}; the message above says why.`}
          </p>
          <button type="button" class="sl-button" onClick={() => void store.act({ type: "plan", model })}>
            Try again
          </button>
        </div>
      )}
      {!ready && !failed && <p class="sl-muted sl-computing">Opening {model}…</p>}
      <JobStatus kinds={["plan"]} ends="none" />
      <label class="sl-field" for={`${prefix}-layout`}>
        <span class="sl-field-label">Layout</span>
        <select
          id={`${prefix}-layout`}
          class="sl-select"
          value={layout}
          disabled={running || isStatic}
          onChange={(event) => setLayout(event.currentTarget.value)}
        >
          <option value="">New UMAP</option>
          {layouts.map(({ key, title }) => (
            <option key={key} value={key}>
              Keep {title}
            </option>
          ))}
        </select>
      </label>
      <button
        type="button"
        class="sl-button sl-primary sl-wide"
        disabled={running || isStatic || !ready}
        onClick={() => void store.act({ type: "run", model, layout: layout || null })}
      >
        Run on {format.plural(store.n, "cell")}
      </button>
      <JobStatus kinds={["embed"]} />
      {ready && plan.audit && <Audit audit={plan.audit} />}
      <Past />
    </div>
  );
}

const ENDED = { done: "done", cancelled: "stopped", failed: "failed" } as const;

/** What has been run on this bench. */
function Past() {
  const store = useStore("_runs");
  const runs = store.get("_runs") ?? [];
  if (runs.length === 0) return null;
  return (
    <section>
      <h2 class="sl-heading">History</h2>
      <ul class="sl-runs">
        {runs.map((run) => (
          <li key={run.id}>
            <span class={`sl-run-mark sl-run-${run.status}`}>{ENDED[run.status]}</span>
            <span class="sl-run-what">
              {run.label}
              {run.model && <span class="sl-muted"> {run.model.replace("models:/", "")}</span>}
              {run.note && <span class="sl-muted sl-run-note">{run.note}</span>}
            </span>
            <span class="sl-muted sl-nowrap">
              {run.at} · {format.duration(run.seconds)}
            </span>
          </li>
        ))}
      </ul>
    </section>
  );
}

function PlanFacts({ plan, cells }: { plan: Plan; cells: number }) {
  const facts: [string, string][] = [
    ["Device", [plan.device, plan.precision].filter(Boolean).join(" · ")],
    ["Memory", plan.memory ?? "–"],
    ["Time", plan.seconds != null ? `about ${format.duration(plan.seconds)}` : "–"],
    ["Cells", format.count(cells)],
  ];
  return (
    <>
      <dl class="sl-facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {(plan.notes ?? []).map((note) => (
        <p class="sl-muted" key={note}>
          {note}
        </p>
      ))}
    </>
  );
}

const MAX_GROUPS = 24;

function Audit({ audit }: { audit: NonNullable<Plan["audit"]> }) {
  const { overall } = audit;
  const rows = mostLost(audit.rows);
  const seen = overall.lost == null ? null : 1 - overall.lost;
  return (
    <section>
      <h2 class="sl-heading">Genes the model sees</h2>
      <p class="sl-lead">
        <b>{format.percent(seen)}</b> of the counts, in {format.count(overall.matched)} of{" "}
        {format.count(overall.total)} genes
      </p>
      {audit.rows.length > 0 && (
        <table class="sl-audit">
          <caption class="sl-muted">
            Share of counts lost{audit.groupby ? `, by ${audit.groupby}` : ""}
          </caption>
          <tbody>
            {rows.slice(0, MAX_GROUPS).map((row) => (
              <AuditLine key={row.group} row={row} />
            ))}
          </tbody>
        </table>
      )}
      {audit.rows.length > MAX_GROUPS && (
        <p class="sl-muted">and {format.count(audit.rows.length - MAX_GROUPS)} more groups</p>
      )}
      {audit.note && <p class="sl-muted">{audit.note}</p>}
    </section>
  );
}

function AuditLine({ row }: { row: AuditRow }) {
  const lost = row.lost ?? 0;
  return (
    <tr>
      <th scope="row" title={row.group}>
        {row.group}
      </th>
      <td class="sl-audit-bar">
        <span style={{ width: `${Math.max(0.5, 100 * lost)}%` }} class={lost > 0.5 ? "sl-much" : ""} />
      </td>
      <td class="sl-number">{format.percent(row.lost, lost < 0.1 ? 1 : 0)}</td>
    </tr>
  );
}
