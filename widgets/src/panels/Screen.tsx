/** Every gene in turn at one dose: a ranked table, of which each row can be put onto the bench. */

import { useMemo } from "preact/hooks";
import * as format from "../format.ts";
import { useKept, useScope, useStore } from "../hooks.ts";
import { readoutShown, readoutsOf, readoutWords } from "../readouts.ts";
import { countOnes, isBusy } from "../reducers.ts";
import type { Screen } from "../types.ts";
import { JobStatus } from "../ui/Progress.tsx";
import { Grouping } from "./Grouping.tsx";
import { Readout } from "./Readout.tsx";

const DOSES: { dose: number; label: string }[] = [
  { dose: 0, label: "Knock out" },
  { dose: 0.5, label: "Half" },
  { dose: 2, label: "Double" },
];
const SIZES = [50, 200, 1000];

export function ScreenPanel({ show }: { show: (component: string) => void }) {
  const { prefix } = useScope();
  const store = useStore("_screen", "_job", "state", "selection", "_meta");
  const [dose, setDose] = useKept("screen.dose", 0);
  const [selected, setSelected] = useKept("screen.selected", false);
  const [most, setMost] = useKept("screen.most", "200");
  const { model, groupby } = store.state;
  const found = store.get("_screen");
  const running = isBusy(store.get("_job"));
  const chosen = useMemo(() => countOnes(store.selection), [store.selection]);
  if (!model) {
    return (
      <div class="sl-panel">
        <div class="sl-blank">
          <p>A model has to answer what each gene does.</p>
          <button type="button" class="sl-button" onClick={() => show("models")}>
            Pick a model
          </button>
        </div>
      </div>
    );
  }
  return (
    <div class="sl-panel">
      <div class="sl-presets" role="group" aria-label="Dose of each gene">
        {DOSES.map((item) => (
          <button
            type="button"
            key={item.dose}
            class="sl-preset"
            aria-pressed={dose === item.dose}
            onClick={() => setDose(item.dose)}
          >
            {item.label}
          </button>
        ))}
      </div>
      <label class="sl-field" for={`${prefix}-most`}>
        <span class="sl-field-label">Cells</span>
        <select
          id={`${prefix}-most`}
          class="sl-select"
          value={most}
          onChange={(event) => setMost(event.currentTarget.value)}
        >
          <option value="">all of them</option>
          {SIZES.map((size) => (
            <option key={size} value={size}>
              at most {format.count(size)} of each group
            </option>
          ))}
        </select>
      </label>
      <Grouping />
      {chosen > 0 && (
        <label class="sl-check">
          <input
            type="checkbox"
            checked={selected}
            onChange={(event) => setSelected(event.currentTarget.checked)}
          />
          Only the {format.plural(chosen, "selected cell")}
        </label>
      )}
      <button
        type="button"
        class="sl-button sl-primary sl-wide"
        disabled={running}
        onClick={() =>
          void store.act({
            type: "screen",
            dose,
            groupby,
            selected: selected && chosen > 0,
            most_cells: most ? Number(most) : null,
          })
        }
      >
        Start the screen
      </button>
      <JobStatus kinds={["screen"]} />
      {!found && !running && (
        <p class="sl-empty-line">
          Each gene that the model knows is given this dose, one after the other, and ranked by what that does
          beside what comparable genes do. What is finished is kept: a screen that was stopped goes on where
          it was.
        </p>
      )}
      {found && <Ranked found={found} show={show} />}
    </div>
  );
}

type Order = "p_value" | "effect";

function Ranked({ found, show }: { found: Screen; show: (component: string) => void }) {
  const { prefix } = useScope();
  const store = useStore("state", "doses", "genes");
  const groups = [...new Set(found.rows.map(({ group }) => group))];
  const [group, setGroup] = useKept("screen.group", "all");
  const [picked, setPicked] = useKept<string | null>("screen.readout", null);
  const readouts = readoutsOf(found.rows);
  const readout = readoutShown(readouts, picked);
  const [order, setOrder] = useKept<Order>("screen.order", "p_value");
  const shown = groups.includes(group) ? group : groups[0];
  const rows = found.rows.filter((row) => row.group === shown && row.readout === readout);
  const total = found.totals[readout]?.[shown] ?? 0;
  const value = (row: Screen["rows"][number]) =>
    order === "effect" ? -Math.abs(row.effect ?? 0) : (row.p_value ?? 2);
  rows.sort((a, b) => value(a) - value(b) || Math.abs(b.effect ?? 0) - Math.abs(a.effect ?? 0));
  const head = (key: Order, label: string) => (
    <th scope="col">
      <button type="button" class="sl-link" aria-pressed={order === key} onClick={() => setOrder(key)}>
        {label}
      </button>
    </th>
  );
  return (
    <section class="sl-found">
      <h2 class="sl-heading">
        {format.plural(found.genes, "gene")} at dose {format.dose(found.dose)}
      </h2>
      <Readout name="screen" readouts={readouts} shown={readout} target={found.target} onPick={setPicked} />
      {groups.length > 1 && (
        <label class="sl-field" for={`${prefix}-screen-group`}>
          <span class="sl-field-label">In</span>
          <select
            id={`${prefix}-screen-group`}
            class="sl-select"
            value={shown}
            onChange={(event) => setGroup(event.currentTarget.value)}
          >
            {groups.map((name) => (
              <option key={name} value={name}>
                {name === "all" ? "All cells" : name}
              </option>
            ))}
          </select>
        </label>
      )}
      <p class="sl-muted">The effect is the {readoutWords(readout, found.target)}.</p>
      {rows.length < total && (
        <p class="sl-muted">
          The {format.count(rows.length)} of {format.count(total)} with the smallest p; all of them are in{" "}
          <code>lab.results["screen"].table</code>.
        </p>
      )}
      <table class="sl-ranked">
        <thead>
          <tr>
            <th scope="col">gene</th>
            {head("effect", "effect")}
            <th scope="col">comparable</th>
            {head("p_value", "p")}
            <th scope="col">q</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.gene}>
              <td>
                <button
                  type="button"
                  class="sl-link"
                  title={`Put ${row.gene} at dose ${found.dose} onto the bench`}
                  onClick={() => {
                    store.setDoses(
                      Object.fromEntries(row.gene.split("+").map((name) => [name, found.dose])),
                      true,
                    );
                    show("perturb");
                  }}
                >
                  <i>
                    {row.gene
                      .split("+")
                      .map((name) => store.geneLabel(name))
                      .join("+")}
                  </i>
                </button>
              </td>
              <td>{format.number(row.effect)}</td>
              <td class="sl-muted">{format.number(row.null_mean)}</td>
              <td>{format.pValue(row.p_value)}</td>
              <td>{format.pValue(row.q_value)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="sl-summary">{found.summary}</p>
    </section>
  );
}
