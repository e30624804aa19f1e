/** The colour bar of numbers, with two thumbs: cells whose value lies beyond them are hidden, as those of a group are. */

import { useMemo, useRef } from "preact/hooks";
import * as format from "../format.ts";
import { useScope, useStore } from "../hooks.ts";
import { gradient, MAX_CODE } from "../palette.ts";
import { codesOf, moved, type Range, rangeOf } from "../range.ts";
import type { Column } from "../types.ts";

/** Steps that follow each other this fast are one to undo: a drag, or a key that is held down. */
const ONE_STEP_MS = 500;
/** Codes by which Page keys move. */
const PAGE = 25;

export function Scale({ column }: { column: Column }) {
  const { theme } = useScope();
  const store = useStore("state");
  const { min = 0, max = 0, codes } = column;
  const range = store.state.range ?? null;
  const [low, high] = codesOf(range, column);
  const sizes = useMemo(() => {
    const counts = new Uint32Array(256);
    for (const code of codes) counts[code]++;
    return counts;
  }, [codes]);
  const inside = sizes.subarray(low, high + 1).reduce((sum, size) => sum + size, 0);
  const last = useRef<{ at: number; range: Range | null } | null>(null);
  const move = (which: "low" | "high", code: number) => {
    const next = rangeOf(moved([low, high], which, code), column);
    const at = performance.now();
    // What has been undone or set elsewhere since is no part of this step.
    const going = last.current && at - last.current.at < ONE_STEP_MS && last.current.range === range;
    last.current = { at, range: next };
    if (going) store.amend({ range: next });
    else store.patch({ range: next });
  };
  const middle = (min + max) / 2;
  return (
    <>
      <header class="sl-legend-head">
        <span class="sl-legend-title" title={column.title}>
          {column.title}
        </span>
        {range && (
          <button type="button" class="sl-link" onClick={() => store.patch({ range: null })}>
            Show all
          </button>
        )}
      </header>
      <div
        class="sl-scale"
        role="group"
        aria-label="Values that are shown"
        style={{ background: gradient(column.scale ?? "amount", theme) }}
      >
        <span class="sl-scale-off" style={{ left: 0, width: `${(100 * low) / MAX_CODE}%` }} />
        <span class="sl-scale-off" style={{ right: 0, width: `${100 - (100 * high) / MAX_CODE}%` }} />
        {max > min &&
          (["low", "high"] as const).map((which) => {
            const code = which === "low" ? low : high;
            const words = format.number(min + ((max - min) * code) / MAX_CODE);
            return (
              <input
                key={which}
                type="range"
                class={`sl-thumb ${which === "low" && low > MAX_CODE / 2 ? "sl-above" : ""}`}
                min={0}
                max={MAX_CODE}
                step={1}
                value={code}
                aria-label={which === "low" ? "Least value shown" : "Greatest value shown"}
                aria-valuetext={words}
                title={`${which === "low" ? "from" : "to"} ${words}`}
                onKeyDown={(event) => {
                  const page = event.key === "PageUp" ? PAGE : event.key === "PageDown" ? -PAGE : 0;
                  if (!page) return;
                  event.preventDefault();
                  move(which, Math.min(MAX_CODE, Math.max(0, code + page)));
                }}
                onInput={(event) => {
                  move(which, Number(event.currentTarget.value));
                  // Where it met the other thumb it stays, and so does what is drawn.
                  const [from, to] = codesOf(store.state.range, column);
                  event.currentTarget.value = String(which === "low" ? from : to);
                }}
              />
            );
          })}
      </div>
      <div class="sl-scale-ends">
        <span>{format.number(min)}</span>
        {max > min && <span>{format.number(middle)}</span>}
        {max > min && <span>{format.number(max)}</span>}
      </div>
      {column.unit && <p class="sl-muted">{column.unit}</p>}
      {range && (
        <p class="sl-muted" aria-live="polite">
          {format.count(inside)} of {format.plural(codes.length, "cell")}: {format.number(range[0])} to{" "}
          {format.number(range[1])}
        </p>
      )}
      {column.missing > 0 && (
        <p class="sl-muted sl-missing-note">
          <span class="sl-swatch" style={{ background: "var(--sl-missing)" }} />
          {format.plural(column.missing, "cell")} without a value
        </p>
      )}
    </>
  );
}
