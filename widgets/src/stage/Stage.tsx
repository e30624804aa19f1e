/** The embedding: cells, legend, tools, and the way from before to after. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useScope, useStore } from "../hooks.ts";
import { lookup, NAN_CODE } from "../palette.ts";
import { combine, countOnes, hiddenCodes } from "../reducers.ts";
import type { Choice } from "../render/probe.ts";
import { MISSING } from "../render/renderer.ts";
import type { Store } from "../store.ts";
import type { Column } from "../types.ts";
import { ColourPicker } from "./ColourPicker.tsx";
import { Legend, MISSING_LABEL } from "./Legend.tsx";
import { Morph } from "./Morph.tsx";
import { type Marks, paintOverlay } from "./overlay.ts";
import { Pointer } from "./pointer.ts";
import { Scene, type Tool } from "./scene.ts";
import { Toolbar } from "./Toolbar.tsx";
import { type Hover, Tooltip } from "./Tooltip.tsx";

const MAX_LABELS = 40;
const MAX_SAMPLE = 50_000;

export function Stage({ renderer }: { renderer: Choice }) {
  const { theme, prefix } = useScope();
  const store = useStore(
    "_meta",
    "_xy",
    "_after",
    "_xy_info",
    "_after_info",
    "state",
    "selection",
    "columns",
    "_trajectory",
    "rooting",
  );
  const host = useRef<HTMLDivElement>(null);
  const live = useRef<{ scene: Scene; pointer: Pointer; marks: Marks; tool: Tool } | null>(null);
  const [tool, setTool] = useState<Tool>("pan");
  const [hover, setHover] = useState<Hover | null>(null);

  const { state } = store;
  const column = store.column(state.colour);
  const before = store.positions("before");
  const after = store.positions("after");
  // The last column stays on the screen until the next one is here.
  const shown = useRef<Column | null>(null);
  if (column || !state.colour) shown.current = column;
  const painted = shown.current && shown.current.codes.length * 2 === before?.length ? shown.current : null;

  const hidden = useMemo(
    () => (painted?.kind === "category" ? hiddenFor(state.hidden, painted) : null),
    [state.hidden, painted],
  );
  const table = useMemo(
    () =>
      lookup(
        { kind: painted?.kind ?? "plain", scale: painted?.scale ?? "amount", other: painted?.other },
        hidden,
        theme,
      ),
    [painted, hidden, theme],
  );
  // A trajectory is about all cells; a perturbation that is still on the bench must not fade it.
  const movedFirst = state.colour?.by !== "result" || ["shift", "error"].includes(state.colour.name);
  const blank = useMemo(() => new Uint8Array((before?.length ?? 0) >> 1), [before]);
  const selected = useMemo(() => countOnes(store.selection), [store.selection]);
  const groups = useMemo(
    () => (state.labels && painted?.kind === "category" && before ? middles(before, painted) : []),
    [state.labels, painted, before],
  );
  const labels = useMemo(() => groups.filter(({ code }) => !hidden?.[code]), [groups, hidden]);

  // The scene lives as long as this view; it reads what it needs when it is asked.
  useEffect(() => {
    const element = host.current!;
    const marks: Marks = { theme, labels: [], trajectory: null, root: null, hovered: -1, drawing: null };
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
      setTool,
      onSelect: (mask, mode) => store.setSelection(combine(store.selection, mask, mode)),
      onClear: () => store.setSelection(new Uint8Array(store.n)),
      onClick: (cell) => clicked(store, cell),
      onHover: (cell, x, y) => {
        marks.hovered = cell;
        setHover(cell < 0 ? null : { cell, x, y });
        scene.redraw();
      },
    });
    live.current = { scene, pointer, marks, tool: "pan" };
    scene.setT(store.t);
    const stop = store.on("t", () => scene.setT(store.t));
    return () => {
      stop();
      pointer.dispose();
      scene.dispose();
      live.current = null;
    };
  }, [store, renderer]);

  useEffect(() => {
    if (live.current) live.current.tool = tool;
  }, [tool]);

  useEffect(() => {
    const scene = live.current?.scene;
    if (!scene || !before) return;
    scene.show({
      before,
      after,
      extent: store.get("_xy_info").extent,
      codes: painted?.codes ?? blank,
      ordered: painted?.kind === "number",
      lookup: table,
      selection: store.selection,
      anySelected: selected > 0,
      movedFirst,
    });
  }, [before, after, painted, blank, table, store.selection, selected, movedFirst, renderer]);

  useEffect(() => {
    if (!live.current) return;
    Object.assign(live.current.marks, {
      theme,
      labels,
      trajectory: state.paths ? store.get("_trajectory") : null,
      root: state.root?.cell ?? null,
    });
    live.current.scene.redraw();
  }, [theme, labels, state.paths, state.root, store.get("_trajectory"), renderer]);

  const save = () => {
    const scene = live.current?.scene;
    if (!scene) return;
    const background = getComputedStyle(host.current!.closest(".scfm-lab")!).getPropertyValue("--sl-surface");
    const link = document.createElement("a");
    link.download = "embedding.png";
    link.href = scene.snapshot(background.trim() || "white").toDataURL("image/png");
    link.click();
  };

  const cells = store.n;
  const title = store.get("_xy_info")?.title;
  const colourName = painted ? painted.title : "one colour";
  return (
    <section class="sl-stage" aria-label="Embedding">
      <div class="sl-stage-top">
        <ColourPicker />
        <Toolbar tool={tool} setTool={setTool} scene={() => live.current?.scene ?? null} save={save} />
      </div>
      <div class="sl-stage-middle">
        <div class="sl-plane">
          <div
            ref={host}
            id={`${prefix}-plane`}
            class={`sl-canvas sl-tool-${store.rooting ? "root" : tool}`}
            role="application"
            aria-roledescription="scatter plot"
            aria-label={`${cells} cells in the plane, coloured by ${colourName}${selected ? `, ${selected} selected` : ""}. Arrow keys move, plus and minus zoom, 0 shows all, L draws a lasso, B a box, Escape clears the selection.`}
            // biome-ignore lint/a11y/noNoninteractiveTabindex: an application takes keys
            tabIndex={0}
          />
          {!before && <p class="sl-empty">No layout yet. Pick a model and run it: the cells appear here.</p>}
          <PlaneTitle title={title} />
          {store.rooting && (
            <p class="sl-plane-hint">Click the cell where the trajectory begins. Escape to leave.</p>
          )}
          <Tooltip hover={hover} column={painted} />
        </div>
        <Legend column={painted} selected={selected} pending={!column && !!state.colour} />
      </div>
      <Morph moved={() => live.current?.scene.movedCount ?? 0} />
    </section>
  );
}

/** What the plane is; another one can be picked where there are several. */
function PlaneTitle({ title }: { title?: string }) {
  const store = useStore("_layouts", "state");
  const layouts = store.get("_layouts") ?? [];
  if (!title) return null;
  if (layouts.length < 2 || store.get("_meta").static) return <p class="sl-plane-title">{title}</p>;
  return (
    <select
      class="sl-plane-title sl-plane-pick"
      aria-label="Layout of the cells"
      value={store.state.layout ?? ""}
      onChange={(event) => store.patch({ layout: event.currentTarget.value })}
    >
      {layouts.map(({ key, title: name }) => (
        <option key={key} value={key}>
          {name}
        </option>
      ))}
    </select>
  );
}

function clicked(store: Store, cell: number) {
  if (store.rooting) {
    if (cell < 0) return;
    store.setRooting(false);
    store.patch({ root: { cell } });
  } else if (cell < 0 && countOnes(store.selection)) {
    store.setSelection(new Uint8Array(store.n));
  }
}

function hiddenFor(hidden: readonly string[], column: Column): Uint8Array {
  const flags = hiddenCodes(hidden, column.labels ?? []);
  if (hidden.includes(MISSING_LABEL)) flags[NAN_CODE] = 1;
  return flags;
}

/**
 * The middle of each group, largest first: the median of its cells' places, by axis. Of very many cells every so-and-so
 * many is enough.
 */
function middles(places: Uint16Array, column: Column) {
  const groups = (column.labels ?? []).map((text, code) => ({
    text,
    code,
    xs: [] as number[],
    ys: [] as number[],
  }));
  if (groups.length > MAX_LABELS) return [];
  const step = Math.ceil(column.codes.length / MAX_SAMPLE);
  for (let i = 0; i < column.codes.length; i += step) {
    const group = groups[column.codes[i]];
    if (!group || places[2 * i] === MISSING) continue;
    group.xs.push(places[2 * i]);
    group.ys.push(places[2 * i + 1]);
  }
  const middle = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1] / 65535;
  return groups
    .filter(({ xs }) => xs.length > 0)
    .sort((a, b) => b.xs.length - a.xs.length)
    .map(({ text, code, xs, ys }) => ({ text, code, x: middle(xs), y: middle(ys) }));
}
