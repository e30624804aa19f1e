/** Where a version of a model comes from, drawn: parents above, what was made of it below. */

import { useEffect, useState } from "preact/hooks";
import { useScope } from "../hooks.ts";

interface Node {
  id: string;
  label: string;
  detail?: string;
  /** The version whose lineage it is. */
  own?: boolean;
}

interface Told {
  nodes: Node[];
  edges: { from: string; to: string; label?: string }[];
}

const ROW = 44;
const WIDTH = 272;
const BOX = 124;
const GAP = 8;

export function Lineage({ reference }: { reference: string }) {
  const { view } = useScope();
  const [told, setTold] = useState<Told | null>(null);
  useEffect(() => {
    let gone = false;
    view.question<Told>({ type: "lineage", reference }, "lineage").then(
      (answer) => !gone && setTold(answer),
      // The card is there all the same.
      () => {},
    );
    return () => {
      gone = true;
    };
  }, [reference, view]);
  if (!told || told.nodes.length < 2) return null;
  const depth = depths(told);
  const rows = Math.max(...depth.values()) + 1;
  const { width, place } = arranged(told.nodes, depth);
  const words = told.nodes.map(({ label, detail }) => `${label}${detail ? `, ${detail}` : ""}`).join("; ");
  const drawing = (
    <svg
      class="sl-lineage"
      viewBox={`0 0 ${width} ${rows * ROW}`}
      style={width > WIDTH ? { width: `${width}px` } : undefined}
      role="img"
      aria-label={`Lineage: ${words}`}
    >
      {told.edges.map(({ from, to }) => {
        const [a, b] = [place.get(from), place.get(to)];
        return a && b ? (
          <line
            key={`${from} ${to}`}
            class="sl-lineage-line"
            x1={a[0]}
            y1={a[1] + 13}
            x2={b[0]}
            y2={b[1] - 13}
          />
        ) : null;
      })}
      {told.nodes.map(({ id, label, detail, own }) => {
        const [x, y] = place.get(id)!;
        return (
          <g key={id} class={own ? "sl-lineage-own" : ""}>
            <title>{detail ? `${label}: ${detail}` : label}</title>
            <rect x={x - BOX / 2} y={y - 12} width={BOX} height={24} rx={6} />
            <text x={x} y={y + 4} text-anchor="middle">
              {label.length > 18 ? `${label.slice(0, 17)}…` : label}
            </text>
          </g>
        );
      })}
    </svg>
  );
  if (width <= WIDTH) return drawing;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by key
    <div class="sl-lineage-wide" role="group" aria-label="Lineage" tabIndex={0}>
      {drawing}
    </div>
  );
}

/** Where the boxes lie: one row for each depth, as wide as the fullest row needs so that no two lie over each other. */
export function arranged(nodes: readonly { id: string }[], depth: ReadonlyMap<string, number>) {
  const rows = new Map<number, string[]>();
  for (const { id } of nodes) {
    const row = depth.get(id) ?? 0;
    rows.set(row, [...(rows.get(row) ?? []), id]);
  }
  const most = Math.max(1, ...[...rows.values()].map((ids) => ids.length));
  const width = Math.max(WIDTH, most * (BOX + GAP));
  const place = new Map<string, [number, number]>();
  for (const [row, ids] of rows) {
    ids.forEach((id, i) => {
      place.set(id, [((i + 0.5) * width) / ids.length, row * ROW + 18]);
    });
  }
  return { width, place };
}

/** How many steps each node lies below one without parents; a circle, which cannot be, ends at its own length. */
export function depths({ nodes, edges }: Told): Map<string, number> {
  const depth = new Map(nodes.map(({ id }) => [id, 0]));
  for (let round = 0; round < nodes.length; round++) {
    for (const { from, to } of edges) {
      const below = (depth.get(from) ?? 0) + 1;
      if (depth.has(to) && (depth.get(to) ?? 0) < below && below < nodes.length) depth.set(to, below);
    }
  }
  return depth;
}
