/** What the colours mean. Of numbers a range can be shown alone. A click on a group hides or shows it, O or a double click shows it alone, S selects its cells. */

import { useMemo, useState } from "preact/hooks";
import * as format from "../format.ts";
import { useScope, useStore } from "../hooks.ts";
import { categoryColour, css, NAN_CODE } from "../palette.ts";
import { combine, combineMode, ofClass, soloHidden, toggleHidden } from "../reducers.ts";
import type { Column } from "../types.ts";
import { Icon } from "../ui/icons.tsx";
import { Scale } from "./Scale.tsx";

export const MISSING_LABEL = "(no value)";
const MAX_ROWS = 300;
const SEARCH_FROM = 16;

interface Props {
  column: Column | null;
  selected: number;
  /** Whether another column is on its way. */
  pending: boolean;
  /** Select all that is shown; null where no cells are. */
  onAll: (() => void) | null;
  onInvert: () => void;
}

export function Legend({ column, selected, pending, onAll, onInvert }: Props) {
  const store = useStore("state", "selection");
  return (
    <aside class={`sl-legend ${pending ? "sl-pending" : ""}`} aria-label="Legend" aria-busy={pending}>
      {column?.kind === "category" && <Groups column={column} selected={selected} />}
      {column?.kind === "number" && <Scale column={column} />}
      {selected > 0 && (
        <div class="sl-selected" aria-live="polite">
          <strong>{format.count(selected)}</strong> selected
          <button type="button" class="sl-link" title="Invert (I on the cells)" onClick={onInvert}>
            Invert
          </button>
          <button
            type="button"
            class="sl-link"
            title="Clear (Escape on the cells)"
            onClick={() => store.setSelection(new Uint8Array(store.n))}
          >
            Clear
          </button>
        </div>
      )}
      {selected === 0 && onAll && (
        <p class="sl-select-all">
          <button
            type="button"
            class="sl-link"
            title="Select all cells that are shown (A on the cells)"
            onClick={onAll}
          >
            Select all
          </button>
        </p>
      )}
    </aside>
  );
}

function Groups({ column, selected }: { column: Column; selected: number }) {
  const { theme } = useScope();
  const store = useStore("state", "selection");
  const [typed, setTyped] = useState("");
  const labels = column.labels ?? [];
  const { hidden } = store.state;
  const inSelection = useMemo(() => {
    const counts = new Uint32Array(256);
    if (selected) {
      for (let i = 0; i < column.codes.length; i++) if (store.selection[i]) counts[column.codes[i]]++;
    }
    return counts;
  }, [column, store.selection, selected]);
  const rows = labels.map((label, code) => ({ label, code, cells: column.counts?.[code] ?? 0 }));
  if (column.missing) rows.push({ label: MISSING_LABEL, code: NAN_CODE, cells: column.missing });
  const query = typed.trim().toLowerCase();
  const found = query ? rows.filter(({ label }) => label.toLowerCase().includes(query)) : rows;
  const all = rows.map(({ label }) => label);
  const select = (code: number, event: MouseEvent | KeyboardEvent) =>
    store.setSelection(combine(store.selection, ofClass(column.codes, code), combineMode(event)));

  return (
    <>
      <header class="sl-legend-head">
        <span class="sl-legend-title" title={column.title}>
          {column.title}
        </span>
        {hidden.length > 0 && (
          <button type="button" class="sl-link" onClick={() => store.patch({ hidden: [] })}>
            Show all
          </button>
        )}
      </header>
      {rows.length >= SEARCH_FROM && (
        <input
          class="sl-input"
          type="search"
          placeholder="Find a group…"
          aria-label="Find a group in the legend"
          value={typed}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
      )}
      <ul class="sl-groups">
        {found.slice(0, MAX_ROWS).map(({ label, code, cells }) => {
          const off = hidden.includes(label);
          const grey = code === NAN_CODE || code === column.other;
          return (
            <li key={code}>
              <button
                type="button"
                class={`sl-group-row ${off ? "sl-off" : ""}`}
                aria-pressed={!off}
                aria-keyshortcuts="S O"
                title={`${label}: click to ${off ? "show" : "hide"}, double click or O to show it alone, S to select its cells`}
                onKeyDown={(event) => {
                  if (event.ctrlKey || event.metaKey) return;
                  // By the key's place: with Alt, which takes away, it writes another letter on some keyboards.
                  if (event.code === "KeyS") select(code, event);
                  else if (event.key.toLowerCase() === "o")
                    store.patch({ hidden: soloHidden(hidden, label, all) });
                  else return;
                  event.preventDefault();
                }}
                onClick={(event) => {
                  if (event.detail > 1) return;
                  store.patch({ hidden: toggleHidden(hidden, label) });
                }}
                onDblClick={() =>
                  // The first click of the two has hidden or shown the group; this takes it back, also as a step.
                  store.amend({ hidden: soloHidden(toggleHidden(store.state.hidden, label), label, all) })
                }
              >
                <span
                  class="sl-swatch"
                  style={{ background: grey ? "var(--sl-missing)" : css(categoryColour(code, theme)) }}
                />
                <span class="sl-group-name">{label}</span>
                <span class="sl-count">
                  {selected > 0 && inSelection[code] > 0 ? `${format.count(inSelection[code])}/` : ""}
                  {format.count(cells)}
                </span>
              </button>
              {/* For the mouse alone; by key it is S. */}
              <button
                type="button"
                class="sl-group-pick"
                tabIndex={-1}
                aria-hidden="true"
                title="Select these cells (Shift adds, Alt takes away)"
                onClick={(event) => select(code, event)}
              >
                <Icon name="lasso" />
              </button>
            </li>
          );
        })}
      </ul>
      {found.length > MAX_ROWS && (
        <p class="sl-muted">{format.count(found.length - MAX_ROWS)} more: type to find one.</p>
      )}
    </>
  );
}
