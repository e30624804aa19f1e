/** One plane with the cells on it. Two of them may stand side by side: colours, selection and the marked cell are shared. */

import { useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { useScope, useStore } from "../hooks.ts";
import { NAN_CODE } from "../palette.ts";
import { beyondRange } from "../range.ts";
import { colourBeside, combine, hiddenCodes, TWIN } from "../reducers.ts";
import type { Choice } from "../render/probe.ts";
import { MISSING } from "../render/renderer.ts";
import type { Store } from "../store.ts";
import type { Column, SessionState } from "../types.ts";
import { clicked, escaped, turned } from "./clicks.ts";
import { MISSING_LABEL } from "./Legend.tsx";
import { type Marks, paintOverlay } from "./overlay.ts";
import { Pointer } from "./pointer.ts";
import { type Mode, Scene, type Tool } from "./scene.ts";
import { type Hover, Tooltip } from "./Tooltip.tsx";

const MAX_LABELS = 40;
const MAX_SAMPLE = 2000;
/** From so many cells on density says more than points that lie on each other. */
export const DENSE_FROM = 400_000;

export interface PlaneHandle {
  scene: Scene;
  marks: Marks;
}

interface Props {
  which: "first" | "second";
  renderer: Choice;
  tool: Tool;
  mode: Mode;
  setTool: (tool: Tool) => void;
  painted: Column | null;
  table: Uint8Array;
  hidden: Uint8Array | null;
  selected: number;
  onAll: () => void;
  onInvert: () => void;
  onHandle: (handle: PlaneHandle | null) => void;
}

export function Plane(props: Props) {
  const { which, renderer, tool, mode, setTool, painted, table, hidden, selected, onHandle } = props;
  const { onAll, onInvert } = props;
  const { theme, prefix } = useScope();
  const store = useStore(
    "_meta",
    "_xy",
    "_after",
    "_second",
    "_xy_info",
    "_after_info",
    "_second_info",
    "state",
    "selection",
    "_trajectory",
    "rooting",
    "scrub",
    "hover",
    "columns",
  );
  const host = useRef<HTMLDivElement>(null);
  const live = useRef<
    | (PlaneHandle & {
        pointer: Pointer;
        tool: Tool;
        mode: Mode;
        onAll: () => void;
        onInvert: () => void;
      })
    | null
  >(null);
  const [hover, setHover] = useState<Hover | null>(null);
  const { state } = store;
  const first = which === "first";
  const before = store.positions(first ? "before" : "second");
  const after = first ? store.positions("after") : null;
  const info = store.get(first ? "_xy_info" : "_second_info");

  // A trajectory is about all cells; a perturbation that is still on the bench must not fade it.
  const movedFirst = state.colour?.by !== "result" || ["shift", "error"].includes(state.colour.name);
  const blank = useMemo(() => new Uint8Array((before?.length ?? 0) >> 1), [before]);
  const groups = useMemo(
    () => (state.labels && painted?.kind === "category" && before ? middles(before, painted) : []),
    [state.labels, painted, before],
  );
  const labels = useMemo(() => groups.filter(({ code }) => !hidden?.[code]), [groups, hidden]);
  // On the plane of the twin cells appear in the twin's order.
  const order = !first && state.second === TWIN ? "twin" : "pseudotime";
  const later = useMemo(
    () => beyond(store, store.scrub, order),
    [store.scrub, store.get("_trajectory"), store, order],
  );
  const dense = state.density ?? store.n >= DENSE_FROM;

  // The scene lives as long as this view; it reads what it needs when it is asked. What it is told, here and below, it is
  // told before the frame is drawn: a tool that came with the next one would draw the last tool's gesture.
  useLayoutEffect(() => {
    const element = host.current!;
    const marks: Marks = {
      theme,
      labels: [],
      trajectory: null,
      root: null,
      hovered: -1,
      cursor: -1,
      drawing: null,
      field: false,
      scrub: null,
    };
    const scene = new Scene(
      element,
      (context, self) => {
        marks.drawing = live.current?.pointer.drawing ?? null;
        paintOverlay(context, self, marks);
      },
      renderer,
    );
    const pointer = new Pointer(element, scene, {
      tool: () => live.current!.tool,
      mode: () => live.current!.mode,
      setTool,
      onSelect: (mask, how) => store.setSelection(combine(store.selection, mask, how)),
      onClear: () => escaped(store),
      onAll: () => live.current!.onAll(),
      onInvert: () => live.current!.onInvert(),
      onClick: (cell, how) => clicked(store, cell, how),
      onHover: (cell, x, y) => {
        setHover(cell < 0 ? null : { cell, x, y });
        store.setHovered(cell);
      },
      onCursor: (cell, x, y, corner) => {
        marks.cursor = cell;
        setHover(cell < 0 ? null : { cell, x, y, spoken: corner ? "From the corner of a box to " : "" });
        store.setHovered(cell);
      },
      onPick: (cell) => (store.rooting ? clicked(store, cell, "replace") : turned(store, cell)),
    });
    live.current = { scene, pointer, marks, tool: "pan", mode: "replace", onAll, onInvert };
    scene.setT(store.t);
    const stop = store.on("t", () => scene.setT(store.t));
    onHandle({ scene, marks });
    return () => {
      stop();
      pointer.dispose();
      scene.dispose();
      live.current = null;
      onHandle(null);
    };
  }, [store, renderer]);

  useLayoutEffect(() => {
    if (live.current) Object.assign(live.current, { tool, mode, onAll, onInvert });
  }, [tool, mode, onAll, onInvert]);

  useLayoutEffect(() => {
    const scene = live.current?.scene;
    if (!scene || !before) return;
    scene.show({
      before,
      after,
      extent: info.extent,
      codes: painted?.codes ?? blank,
      ordered: painted?.kind === "number",
      lookup: table,
      selection: later ?? store.selection,
      anySelected: later ? true : selected > 0,
      movedFirst: movedFirst && !later,
      dense,
      following: first && store.foreseen && store.pacer.dragging,
    });
  }, [before, after, painted, blank, table, store.selection, selected, movedFirst, later, dense, renderer]);

  const trajectory = store.get("_trajectory");
  useLayoutEffect(() => {
    if (!live.current) return;
    const shown = first ? trajectory : trajectory?.second?.key === state.second ? trajectory?.second : null;
    Object.assign(live.current.marks, {
      theme,
      labels,
      trajectory: state.paths && trajectory ? (shown ?? null) : null,
      root: state.root?.cell ?? null,
      hovered: store.hovered,
      field: state.field,
      scrub: store.scrub,
    });
    live.current.scene.redraw();
  }, [
    theme,
    labels,
    state.paths,
    state.root,
    state.field,
    state.second,
    trajectory,
    store.hovered,
    store.scrub,
    renderer,
  ]);

  const colourName = painted ? painted.title : "one colour";
  return (
    <div class="sl-plane">
      <div
        ref={host}
        id={first ? `${prefix}-plane` : `${prefix}-plane-2`}
        class={`sl-canvas sl-tool-${store.rooting ? "root" : tool}`}
        role="application"
        aria-roledescription="scatter plot"
        aria-label={`${store.n} cells in the plane${info?.title ? ` (${info.title})` : ""}, coloured by ${colourName}${selected ? `, ${selected} selected` : ""}. Arrow keys move, plus and minus zoom, 0 shows all, L draws a lasso, B a box, R a brush, C goes from cell to cell by arrow keys, A selects all that is shown, I inverts, Escape clears the selection; in the legend S selects a group, O shows it alone.`}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: an application takes keys
        tabIndex={0}
      />
      {!before && <p class="sl-empty">No layout yet. Pick a model and run it: the cells appear here.</p>}
      <PlaneTitle which={which} title={info?.title} />
      {dense && before && <p class="sl-plane-note">density</p>}
      {first && store.rooting && (
        <p class="sl-plane-hint">Click the cell where the trajectory begins. Escape to leave.</p>
      )}
      <Tooltip
        hover={hover}
        column={painted}
        colour={first ? state.colour : colourBeside(state.colour, state.second)}
      />
    </div>
  );
}

/** What the plane is; another one can be picked where there are several. */
function PlaneTitle({ which, title }: { which: "first" | "second"; title?: string }) {
  const store = useStore("_layouts", "state");
  const layouts = (store.get("_layouts") ?? []).filter(({ second }) => !second || which === "second");
  if (!title) return null;
  if (layouts.length < 2 || store.get("_meta").static) return <p class="sl-plane-title">{title}</p>;
  const first = which === "first";
  return (
    <select
      class="sl-plane-title sl-plane-pick"
      aria-label={first ? "Layout of the cells" : "Layout of the second plane"}
      value={(first ? store.state.layout : store.state.second) ?? ""}
      onChange={(event) => {
        const key = event.currentTarget.value;
        store.patch(first ? { layout: key } : { second: key });
      }}
    >
      {layouts.map(({ key, title: name }) => (
        <option key={key} value={key}>
          {name}
        </option>
      ))}
    </select>
  );
}

/** Cells up to a point of an order, one byte each; null where nothing is scrubbed. */
function beyond(store: Store, scrub: number | null, order: string): Uint8Array | null {
  if (scrub === null) return null;
  const times = store.column({ by: "result", name: order });
  if (!times) return null;
  const limit = Math.round(254 * scrub);
  return Uint8Array.from(times.codes, (code) => (code <= limit ? 1 : 0));
}

/** One byte per code, 1 = not shown: groups that are hidden, or values beyond the range; null where all are shown. */
export function hiddenFor(state: SessionState, column: Column | null): Uint8Array | null {
  const { hidden, range } = state;
  if (column?.kind === "number") return range ? beyondRange(range, column) : null;
  if (!column) return null;
  const flags = hiddenCodes(hidden, column.labels ?? []);
  if (hidden.includes(MISSING_LABEL)) flags[NAN_CODE] = 1;
  return flags;
}

/**
 * The middle of each group, largest first: the median of its cells' places, by axis. Of a group of very many cells every
 * so-and-so many is enough.
 */
function middles(places: Uint16Array, column: Column) {
  const labels = column.labels ?? [];
  if (labels.length > MAX_LABELS) return [];
  const sizes = new Uint32Array(256);
  for (const code of column.codes) sizes[code]++;
  const steps = sizes.map((size) => Math.ceil(size / MAX_SAMPLE) || 1);
  const seen = new Uint32Array(256);
  const groups = labels.map((text, code) => ({ text, code, xs: [] as number[], ys: [] as number[] }));
  for (let i = 0; i < column.codes.length; i++) {
    const code = column.codes[i];
    if (code >= groups.length || places[2 * i] === MISSING || seen[code]++ % steps[code]) continue;
    groups[code].xs.push(places[2 * i]);
    groups[code].ys.push(places[2 * i + 1]);
  }
  const middle = (values: number[]) => Uint16Array.from(values).sort()[values.length >> 1] / 65535;
  return groups
    .filter(({ xs }) => xs.length > 0)
    .sort((a, b) => sizes[b.code] - sizes[a.code])
    .map(({ text, code, xs, ys }) => ({ text, code, x: middle(xs), y: middle(ys) }));
}
