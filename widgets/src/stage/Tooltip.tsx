/** The cell under the pointer: what is known here at once, its name and exact values a moment later. */

import { useEffect, useState } from "preact/hooks";
import * as format from "../format.ts";
import { useScope, useStore } from "../hooks.ts";
import { MAX_CODE, NAN_CODE } from "../palette.ts";
import type { ColourBy, Column } from "../types.ts";
import { MISSING_LABEL } from "./Legend.tsx";

export interface Hover {
  cell: number;
  x: number;
  y: number;
  /** Where keys have gone to the cell: what is said of it besides its name and values, for ears. */
  spoken?: string;
}

interface Known {
  cell: number;
  name: string;
  /** Missing in an exported page, which knows the names alone. */
  fields?: [string, string][];
}

const ASK_AFTER_MS = 90;

interface Props {
  hover: Hover | null;
  /** What the cells are coloured by here, and by which name Python knows it. */
  column: Column | null;
  colour: ColourBy | null;
}

export function Tooltip({ hover, column, colour }: Props) {
  const { view } = useScope();
  const store = useStore("selection");
  const [known, setKnown] = useState<Known | null>(null);
  const cell = hover?.cell ?? -1;

  useEffect(() => {
    if (cell < 0) return;
    const timer = setTimeout(() => {
      view
        .ask({ type: "cell", cell, colour }, "hover")
        .then(({ content }) => setKnown({ cell, ...(content as unknown as Omit<Known, "cell">) }))
        // The tooltip then keeps to what the page itself knows.
        .catch(() => setKnown({ cell, name: `Cell ${format.count(cell + 1)}` }));
    }, ASK_AFTER_MS);
    return () => clearTimeout(timer);
  }, [cell, colour?.by, colour?.name, view]);

  const exact = known?.cell === cell ? known : null;
  const fields = hover ? (exact?.fields ?? (column ? [[column.title, localValue(column, cell)]] : [])) : [];
  const told = fields.map(([name, value]) => `${name} ${value}`);
  const chosen = store.selection[cell] ? "selected" : "not selected";
  // Always there, so that what changes in it is read; said once the name is known.
  const heard = (
    <p class="sl-heard" aria-live="polite">
      {hover?.spoken !== undefined && exact && `${hover.spoken}${[exact.name, ...told, chosen].join(", ")}`}
    </p>
  );
  if (!hover) return heard;
  const flip = { right: hover.x > 260, up: hover.y > 200 };
  return (
    <>
      {heard}
      <div
        class="sl-tooltip"
        role="tooltip"
        style={{
          left: flip.right ? undefined : `${hover.x + 14}px`,
          right: flip.right ? `calc(100% - ${hover.x - 14}px)` : undefined,
          top: flip.up ? undefined : `${hover.y + 14}px`,
          bottom: flip.up ? `calc(100% - ${hover.y - 14}px)` : undefined,
        }}
      >
        <strong>{exact?.name ?? `Cell ${format.count(cell + 1)}`}</strong>
        <dl>
          {fields.map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ))}
        </dl>
      </div>
    </>
  );
}

/** A cell's value as far as its colour code tells. */
function localValue(column: Column, cell: number): string {
  const code = column.codes[cell];
  if (code === NAN_CODE) return MISSING_LABEL;
  if (column.kind === "category") return column.labels?.[code] ?? "";
  const { min = 0, max = 0 } = column;
  return format.number(min + ((max - min) * code) / MAX_CODE);
}
