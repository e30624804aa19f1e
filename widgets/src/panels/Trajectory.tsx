/** Where it begins, and in which order the cells follow. */

import { useEffect, useMemo } from "preact/hooks";
import * as format from "../format.ts";
import { useScope, useStore } from "../hooks.ts";
import { categoryColour, css } from "../palette.ts";
import { groupingOf, isBusy, rootIn, TWIN } from "../reducers.ts";
import { resultsOf } from "../stage/ColourPicker.tsx";
import type { Column, Trajectory } from "../types.ts";
import { JobStatus } from "../ui/Progress.tsx";
import { Grouping } from "./Grouping.tsx";
import { RootCell } from "./RootCell.tsx";
import { Scrubber, Trends } from "./Trends.tsx";

const MAX_GROUPS = 300;

export function TrajectoryPanel() {
  const { prefix, theme } = useScope();
  const store = useStore("_trajectory", "_job", "state", "_meta", "columns", "rooting", "_layouts");
  const meta = store.get("_meta");
  const { groupby } = store.state;
  const grouping = groupingOf(meta.obs, groupby);
  const groups: Column | null = store.column(grouping ? { by: "obs", name: grouping } : null);
  const root = rootIn(groups?.labels ?? [], store.state.root);
  const found = store.get("_trajectory");
  const planes = store.get("_layouts") ?? [];
  const twin = planes.find(({ key }) => key === TWIN) ?? null;
  const running = isBusy(store.get("_job"));
  const held = meta.static ? (meta.results ?? []) : null;
  const offered = [
    { name: "pseudotime", title: "Pseudotime" },
    { name: "branch", title: "Branch" },
    ...resultsOf(found),
  ].filter(({ name }) => !held || held.includes(name));
  const { colour } = store.state;
  const shown = colour?.by === "result" ? offered.find(({ name }) => name === colour.name)?.name : null;

  const start = () => {
    void store.act({ type: "trajectory", root, groupby: grouping });
  };

  if (meta.static && !found) {
    return (
      <div class="sl-panel">
        <p class="sl-empty-line">This page holds no trajectory.</p>
      </div>
    );
  }
  return (
    <div class="sl-panel">
      {!meta.static && (
        <>
          <Grouping none="Clusters of the cells" />
          <label class="sl-field" for={`${prefix}-root`}>
            <span class="sl-field-label">Root</span>
            <select
              id={`${prefix}-root`}
              class="sl-select"
              value={root?.group ?? (root?.cell !== undefined ? "\u0000cell" : "")}
              onChange={(event) => {
                const { value } = event.currentTarget;
                if (value === "\u0000cell") return;
                store.setRooting(false);
                store.patch({ root: value ? { group: value } : null });
              }}
            >
              <option value="" disabled>
                {grouping ? `Pick a group of ${grouping}` : "Click a cell"}
              </option>
              {root?.cell !== undefined && <option value={"\u0000cell"}>Cell {root.cell + 1}</option>}
              {(groups?.labels ?? []).slice(0, MAX_GROUPS).map((label) => (
                <option key={label} value={label}>
                  {label}
                </option>
              ))}
            </select>
          </label>
          <RootCell cell={root?.cell} />
          <button
            type="button"
            class="sl-button sl-primary sl-wide"
            disabled={!root || running}
            onClick={start}
          >
            Order the cells
          </button>
          <JobStatus kinds={["trajectory"]} />
        </>
      )}
      {!found && !running && (
        <p class="sl-empty-line">
          Pick where the process begins. Cells are then ordered by their distance from there along the data,
          not by clock time.
        </p>
      )}
      {found && (
        <section class="sl-found">
          <h2 class="sl-heading">From {found.root}</h2>
          <label class="sl-field" for={`${prefix}-along`}>
            <span class="sl-field-label">Colour</span>
            <select
              id={`${prefix}-along`}
              class="sl-select"
              value={shown ?? ""}
              onChange={(event) => {
                const name = event.currentTarget.value;
                const groups = grouping ? ({ by: "obs", name: grouping } as const) : null;
                store.patch({ colour: name ? { by: "result", name } : groups, hidden: [] });
              }}
            >
              <option value="">{grouping ?? "none"}</option>
              {offered.map(({ name, title }) => (
                <option key={name} value={name}>
                  {title}
                </option>
              ))}
            </select>
          </label>
          <div class="sl-checks">
            <label>
              <input
                type="checkbox"
                checked={store.state.paths}
                onChange={(event) => store.patch({ paths: event.currentTarget.checked })}
              />
              Paths over the cells
            </label>
            {!meta.static && twin && (
              <label>
                <input
                  type="checkbox"
                  checked={store.state.second === twin.key}
                  onChange={(event) => store.patch({ second: event.currentTarget.checked ? twin.key : null })}
                />
                Its twin on principal components of the counts, beside it
              </label>
            )}
          </div>
          {twin && store.state.second === TWIN && (
            <p class="sl-muted">
              Beside: places and pseudotime without a model. The paths over them are those of the model.
            </p>
          )}
          <Scrubber />
          <Fates found={found} />
          <Trends />
          {found.charts && (
            <Chart
              svg={theme === "dark" ? found.charts.dark : found.charts.light}
              label={`Pseudotime from ${found.root}, by group`}
            />
          )}
          <p class="sl-summary">{found.summary}</p>
        </section>
      )}
    </div>
  );
}

/** To which ends the cells of each group are likely to come, in the order of pseudotime. */
function Fates({ found }: { found: Trajectory }) {
  const { theme } = useScope();
  const { ends, groups, parting, twin, twin_missing: missing } = found;
  const known = groups.filter(({ fates }) => fates.some((value) => value !== null));
  return (
    <section>
      {ends.length > 1 && known.length > 0 && (
        <>
          <h2 class="sl-heading">Where cells are likely to end</h2>
          <ul class="sl-chips">
            {ends.map((end, index) => (
              <li key={end} class="sl-end-name">
                <span class="sl-swatch" style={{ background: css(categoryColour(index, theme)) }} /> {end}
              </li>
            ))}
          </ul>
          <table class="sl-audit">
            <caption class="sl-muted">mean probability of each end, by group in order</caption>
            <tbody>
              {known.map(({ group, fates }) => (
                <tr key={group}>
                  <th scope="row" title={group}>
                    {group}
                  </th>
                  <td>
                    <span
                      class="sl-stack"
                      role="img"
                      aria-label={ends.map((end, k) => `${end} ${format.percent(fates[k] ?? 0)}`).join(", ")}
                    >
                      {fates.map((value, k) => (
                        <span
                          key={ends[k]}
                          title={`${ends[k]} ${format.percent(value ?? 0)}`}
                          style={{
                            width: `${100 * (value ?? 0)}%`,
                            background: css(categoryColour(k, theme)),
                          }}
                        />
                      ))}
                    </span>
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
          {parting.length > 0 && (
            <p class="sl-muted">Paths part at {parting.join(", ")}: the groups with a second ring.</p>
          )}
        </>
      )}
      <p class="sl-muted">
        {twin?.agreement != null
          ? `On principal components of the same cells the order agrees to Spearman ${twin.agreement.toFixed(2)}.`
          : missing && `No twin on principal components: ${missing}.`}
      </p>
    </section>
  );
}

/** A chart that Python has drawn, as a picture: its text cannot become markup of this page. */
export function Chart({ svg, label }: { svg: string; label: string }) {
  const url = useMemo(() => URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" })), [svg]);
  useEffect(() => () => URL.revokeObjectURL(url), [url]);
  return <img class="sl-chart" src={url} alt={label} />;
}
