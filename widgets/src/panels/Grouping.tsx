/** Which column tells groups of cells apart: the same choice in every panel that reports by group. */

import { useScope, useStore } from "../hooks.ts";
import { groupingOf, noGroups } from "../reducers.ts";

/** `none`: what happens without one. */
export function Grouping({ none = "All cells together" }: { none?: string }) {
  const { prefix } = useScope();
  const store = useStore("state", "_meta");
  const columns = (store.get("_meta").obs ?? []).filter(({ groups, why }) => groups || why);
  if (columns.length === 0) return null;
  const { groupby } = store.state;
  const refused = noGroups(columns, groupby);
  return (
    <>
      <label class="sl-field" for={`${prefix}-groupby`}>
        <span class="sl-field-label">Groups</span>
        <select
          id={`${prefix}-groupby`}
          class="sl-select"
          aria-describedby={refused ? `${prefix}-groupby-why` : undefined}
          value={groupingOf(columns, groupby) ?? ""}
          onChange={(event) => store.patch({ groupby: event.currentTarget.value || null })}
        >
          <option value="">{none}</option>
          {columns.map(({ name, why }) => (
            <option key={name} value={name} disabled={!!why}>
              {why ? `${name} (${why})` : name}
            </option>
          ))}
        </select>
      </label>
      {refused && (
        <p class="sl-muted" id={`${prefix}-groupby-why`}>
          {refused}
        </p>
      )}
    </>
  );
}
