/** The embedding: one plane or two, legend, tools, and the way from before to after. */

import { useCallback, useMemo, useRef, useState } from "preact/hooks";
import { useScope, useStore } from "../hooks.ts";
import { lookup } from "../palette.ts";
import { colourBeside, columnShown, countOnes, inverted, shownCells, without } from "../reducers.ts";
import type { Choice } from "../render/probe.ts";
import type { Column } from "../types.ts";
import { ColourPicker } from "./ColourPicker.tsx";
import { figure, savePicture, saveText } from "./figure.ts";
import { Legend } from "./Legend.tsx";
import { Morph } from "./Morph.tsx";
import { hiddenFor, Plane, type PlaneHandle } from "./Plane.tsx";
import type { Mode, Tool } from "./scene.ts";
import { Toolbar } from "./Toolbar.tsx";

export function Stage({ renderer }: { renderer: Choice }) {
  const { theme } = useScope();
  const store = useStore("state", "selection", "columns", "_xy_info", "_second_info", "_layouts", "_meta");
  const [tool, setTool] = useState<Tool>("pan");
  const [mode, setMode] = useState<Mode>("replace");
  const handles = useRef<{ first: PlaneHandle | null; second: PlaneHandle | null }>({
    first: null,
    second: null,
  });
  const stage = useRef<HTMLElement>(null);

  const { state } = store;
  const column = store.column(state.colour);
  const before = store.positions("before");
  const fault = store.columnFault(state.colour);
  const shown = useRef<Column | null>(null);
  shown.current = columnShown(column, shown.current, state.colour !== null && !fault);
  const painted = shown.current && shown.current.codes.length * 2 === before?.length ? shown.current : null;

  const hidden = useMemo(() => hiddenFor(state, painted), [state.hidden, state.range, painted]);
  const table = useMemo(
    () =>
      lookup(
        { kind: painted?.kind ?? "plain", scale: painted?.scale ?? "amount", other: painted?.other },
        hidden,
        theme,
      ),
    [painted, hidden, theme],
  );
  const besides = colourBeside(state.colour, state.second);
  const other = besides === state.colour ? painted : store.column(besides);
  const refused = besides !== state.colour && !!store.columnFault(besides);
  const instead = useMemo(() => (refused ? without(painted) : painted), [painted, refused]);
  const beside = other ?? instead;
  const selected = useMemo(() => countOnes(store.selection), [store.selection]);
  const two = state.second !== null && store.positions("second") !== null;
  const onPlane = useCallback(
    () => shownCells(before ?? new Uint16Array(2 * store.n), painted?.codes ?? null, hidden),
    [before, painted, hidden, store],
  );
  const onAll = useCallback(() => store.setSelection(onPlane()), [store, onPlane]);
  const onInvert = useCallback(
    () => store.setSelection(inverted(store.selection, onPlane())),
    [store, onPlane],
  );
  const planes = { renderer, tool, mode, setTool, painted, table, hidden, selected, onAll, onInvert };
  const scenes = () =>
    [handles.current.first?.scene, handles.current.second?.scene].filter((scene) => !!scene);

  const save = (kind: "png" | "svg") => {
    const shots = (["first", "second"] as const).flatMap((which) => {
      const handle = handles.current[which];
      const title = store.get(which === "first" ? "_xy_info" : "_second_info")?.title ?? "";
      return handle?.scene.picture ? [{ ...handle, title }] : [];
    });
    if (shots.length === 0) return;
    const style = getComputedStyle(stage.current!.closest(".scfm-lab")!);
    const colour = (name: string) => style.getPropertyValue(name).trim();
    const svg = figure(shots, painted, hidden, theme, {
      background: colour("--sl-surface"),
      ink: colour("--sl-ink"),
      muted: colour("--sl-muted"),
      missing: colour("--sl-missing"),
    });
    if (kind === "svg") saveText(svg, "embedding.svg", "image/svg+xml");
    else void savePicture(svg, "embedding.png");
  };

  return (
    <section class="sl-stage" aria-label="Embedding" ref={stage}>
      <div class="sl-stage-top">
        <ColourPicker />
        <Toolbar tool={tool} setTool={setTool} mode={mode} setMode={setMode} scenes={scenes} save={save} />
      </div>
      <div class="sl-stage-middle">
        <div class={`sl-planes ${two ? "sl-two" : ""}`}>
          <Plane
            which="first"
            {...planes}
            onHandle={(handle) => {
              handles.current.first = handle;
            }}
          />
          {two && (
            <Plane
              which="second"
              {...planes}
              painted={beside}
              onHandle={(handle) => {
                handles.current.second = handle;
              }}
            />
          )}
        </div>
        <Legend
          column={painted}
          selected={selected}
          pending={!column && !!state.colour && !fault}
          onAll={before ? onAll : null}
          onInvert={onInvert}
        />
      </div>
      <Morph moved={() => handles.current.first?.scene.movedCount ?? 0} />
    </section>
  );
}
