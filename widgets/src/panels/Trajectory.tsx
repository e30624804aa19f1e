/** Where it begins, and in which order the cells follow. */

import { useEffect, useMemo } from "preact/hooks";
import { useScope, useStore } from "../hooks.ts";
import { isBusy } from "../reducers.ts";
import type { Column } from "../types.ts";
import { Icon } from "../ui/icons.tsx";
import { JobStatus } from "../ui/Progress.tsx";
import { Scrubber, Trends } from "./Trends.tsx";

const MAX_GROUPS = 300;

export function TrajectoryPanel() {
  const { prefix, theme } = useScope();
  const store = useStore("_trajectory", "_job", "state", "_meta", "columns", "rooting", "_layouts");
  const meta = store.get("_meta");
  const { root, groupby } = store.state;
  const grouping =
    meta.obs.find(({ name, kind }) => name === groupby && kind === "category") ??
    meta.obs.find(({ kind }) => kind === "category");
  const groups: Column | null = store.column(grouping ? { by: "obs", name: grouping.name } : null);
  const found = store.get("_trajectory");
  const planes = store.get("_layouts") ?? [];
  const twin = planes.find(({ key, second }) => second && key.startsWith("pca:")) ?? null;
  const running = isBusy(store.get("_job"));
  const shown = store.state.colour?.by === "result" && store.state.colour.name === "pseudotime";

  const start = () => {
    void store.act({ type: "trajectory", root, groupby: grouping?.name ?? null });
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
          <label class="sl-field" for={`${prefix}-root`}>
            <span class="sl-field-label">Root</span>
            <select
              id={`${prefix}-root`}
              class="sl-select"
              value={root?.group ?? (root?.cell !== undefined ? "\u0000cell" : "")}
              onChange={(event) => {
                const { value } = event.currentTarget;
                if (value !== "\u0000cell") store.patch({ root: value ? { group: value } : null });
              }}
            >
              <option value="" disabled>
                {grouping ? `Pick a group of ${grouping.name}` : "Click a cell"}
              </option>
              {root?.cell !== undefined && <option value={"\u0000cell"}>Cell {root.cell + 1}</option>}
              {(groups?.labels ?? []).slice(0, MAX_GROUPS).map((label) => (
                <option key={label} value={label}>
                  {label}
                </option>
              ))}
            </select>
          </label>
          <button
            type="button"
            class="sl-button sl-wide"
            aria-pressed={store.rooting}
            onClick={() => store.setRooting(!store.rooting)}
          >
            <Icon name="target" />
            {store.rooting ? "Click a cell in the plane…" : "Pick a cell by clicking"}
          </button>
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
          <div class="sl-checks">
            <label>
              <input
                type="checkbox"
                checked={shown}
                onChange={(event) =>
                  store.patch({
                    colour: event.currentTarget.checked
                      ? { by: "result", name: "pseudotime" }
                      : grouping
                        ? { by: "obs", name: grouping.name }
                        : null,
                    hidden: [],
                  })
                }
              />
              Colour by pseudotime
            </label>
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
                The same on {twin.title} beside it
              </label>
            )}
          </div>
          <Scrubber />
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

/** A chart that Python has drawn, as a picture: its text cannot become markup of this page. */
export function Chart({ svg, label }: { svg: string; label: string }) {
  const url = useMemo(() => URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" })), [svg]);
  useEffect(() => () => URL.revokeObjectURL(url), [url]);
  return <img class="sl-chart" src={url} alt={label} />;
}
