/** Which column tells groups of cells apart: the same choice in every panel that reports by group. */

import { useScope, useStore } from "../hooks.ts";
import { groupingOf } from "../reducers.ts";

/** `none`: what happens without one. */
export function Grouping({ none = "All cells together" }: { none?: string }) {
  const { prefix } = useScope();
  const store = useStore("state", "_meta");
  const groups = (store.get("_meta").obs ?? []).filter((column) => column.groups);
  if (groups.length === 0) return null;
  return (
    <label class="sl-field" for={`${prefix}-groupby`}>
      <span class="sl-field-label">Groups</span>
      <select
        id={`${prefix}-groupby`}
        class="sl-select"
        value={groupingOf(groups, store.state.groupby) ?? ""}
        onChange={(event) => store.patch({ groupby: event.currentTarget.value || null })}
      >
        <option value="">{none}</option>
        {groups.map(({ name }) => (
          <option key={name} value={name}>
            {name}
          </option>
        ))}
      </select>
    </label>
  );
}
