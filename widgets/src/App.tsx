/** The bench: what is loaded, the panels at the side, the cells beside them. */

import { useEffect, useRef } from "preact/hooks";
import * as format from "./format.ts";
import { useQuiet, useScope, useStore } from "./hooks.ts";
import { Compare } from "./panels/Compare.tsx";
import { Genes } from "./panels/Genes.tsx";
import { Models } from "./panels/Models.tsx";
import { Perturb } from "./panels/Perturb.tsx";
import { Plugin } from "./panels/Plugin.tsx";
import { Run } from "./panels/Run.tsx";
import { TrajectoryPanel } from "./panels/Trajectory.tsx";
import { isPicked, sidePanels } from "./reducers.ts";
import type { Choice } from "./render/probe.ts";
import { Stage } from "./stage/Stage.tsx";
import type { PanelInfo } from "./types.ts";
import { Boundary } from "./ui/Boundary.tsx";
import { Dialogs } from "./ui/Dialogs.tsx";
import { Icon } from "./ui/icons.tsx";
import { Menu } from "./ui/Menu.tsx";
import { Notices } from "./ui/Notices.tsx";
import { SpokenJob } from "./ui/Progress.tsx";
import { Tour } from "./ui/Tour.tsx";

export function App({ renderer }: { renderer: Choice }) {
  const { prefix } = useScope();
  const store = useStore("_panels", "state", "_meta");
  const panels = store.get("_panels") ?? [];
  const { side, current, screening } = sidePanels(panels, store.state.panel);
  const failed = panels.filter((panel) => panel.error);
  const hasStage = panels.some((panel) => panel.component === "embedding");
  const isPerturb = current?.component === "perturb";
  // Whoever comes back to Perturb finds the half that was open.
  useEffect(() => {
    if (isPerturb) store.keep("perturb.screening", screening);
  }, [store, isPerturb, screening]);
  const pick = (id: string) => {
    const screen = panels.find(({ component, error }) => component === "screen" && !error);
    const back = side.find((panel) => panel.id === id)?.component === "perturb";
    store.patch({ panel: back && screen && store.kept("perturb.screening", false) ? screen.id : id });
  };

  const show = (component: string) => {
    const target = side.find((panel) => panel.component === component);
    if (target) store.patch({ panel: target.id });
  };

  return (
    <>
      <Header />
      <SpokenJob />
      <Notices />
      <div class="sl-body">
        {side.length + failed.length > 0 && (
          <div class="sl-side">
            <Tabs panels={side} current={current?.id} onPick={pick} />
            {current && (
              <div
                id={`${prefix}-tabpanel`}
                class="sl-scroll"
                role="tabpanel"
                aria-labelledby={`${prefix}-tab-${side.indexOf(current)}`}
                // biome-ignore lint/a11y/noNoninteractiveTabindex: a panel that scrolls must be reachable by key
                tabIndex={0}
              >
                <Boundary key={current.id} name={`The panel “${current.title}”`}>
                  <Panel panel={current} show={show} screening={screening} />
                </Boundary>
              </div>
            )}
            {failed.map((panel) => (
              <p class="sl-failed" key={panel.id}>
                {panel.error}
              </p>
            ))}
          </div>
        )}
        {hasStage && (
          <Boundary name="The embedding">
            <Stage renderer={renderer} />
          </Boundary>
        )}
      </div>
      <Dialogs />
      <Tour />
    </>
  );
}

interface PanelProps {
  panel: PanelInfo;
  show: (component: string) => void;
  screening: boolean;
}

function Panel({ panel, show, screening }: PanelProps) {
  switch (panel.component) {
    case "models":
      return <Models />;
    case "run":
      return <Run show={show} />;
    case "perturb":
      return <Perturb show={show} screening={screening} />;
    case "genes":
      return <Genes show={show} />;
    case "compare":
      return <Compare show={show} />;
    case "trajectory":
      return <TrajectoryPanel />;
    default:
      return <Plugin key={panel.id} panel={panel} />;
  }
}

function Tabs({
  panels,
  current,
  onPick,
}: {
  panels: PanelInfo[];
  current?: string;
  onPick: (id: string) => void;
}) {
  const { prefix } = useScope();
  const list = useRef<HTMLDivElement>(null);
  const onKeyDown = (event: KeyboardEvent) => {
    const at = panels.findIndex(({ id }) => id === current);
    const places: Record<string, number> = {
      ArrowRight: (at + 1) % panels.length,
      ArrowLeft: (at - 1 + panels.length) % panels.length,
      Home: 0,
      End: panels.length - 1,
    };
    const next = places[event.key];
    if (next === undefined) return;
    event.preventDefault();
    onPick(panels[next].id);
    list.current?.querySelectorAll<HTMLElement>("[role=tab]")[next]?.focus();
  };
  return (
    <div ref={list} class="sl-tabs" role="tablist" aria-label="Panels" onKeyDown={onKeyDown}>
      {panels.map((panel, index) => (
        <button
          type="button"
          key={panel.id}
          id={`${prefix}-tab-${index}`}
          role="tab"
          class="sl-tab"
          aria-selected={panel.id === current}
          aria-controls={`${prefix}-tabpanel`}
          tabIndex={panel.id === current ? 0 : -1}
          onClick={() => onPick(panel.id)}
        >
          {panel.title}
        </button>
      ))}
    </div>
  );
}

function Header() {
  const store = useStore("_meta", "_job", "state", "_models", "waiting");
  const meta = store.get("_meta");
  const job = store.get("_job");
  const model = store.get("_models")?.rows?.find((row) => isPicked(row, store.state.model));
  const quiet = useQuiet();
  const running = job && store.running;
  const share = running && job.total > 0 ? ` ${Math.floor((100 * job.done) / job.total)} %` : "";
  return (
    <header class="sl-header">
      <Mark />
      <span class="sl-title">{meta.title}</span>
      <span class="sl-muted">
        {format.plural(meta.n, "cell")} · {format.plural(meta.n_genes, "gene")}
      </span>
      <span class="sl-spring" />
      {quiet && (
        <span class="sl-quiet-kernel" role="status">
          The kernel does not answer: it is busy, or gone
          {store.running ? ", and with it what was running" : ""}.
        </span>
      )}
      {running && (
        <span class="sl-running">
          <span class="sl-spinner" aria-hidden="true" />
          {job.label}
          {share}
          <button
            type="button"
            class="sl-quiet"
            aria-label={`Stop: ${job.label}`}
            title={`Stop: ${job.label}`}
            disabled={job.status === "cancelling"}
            onClick={() => void store.act({ type: "cancel", job: job.id })}
          >
            <Icon name="stop" />
          </button>
        </span>
      )}
      <History />
      {!meta.static && <Take />}
      {store.state.model && (
        <span class="sl-chip sl-chip-model" title={store.state.model}>
          {model ? `${model.name}${model.version ? ` v${model.version}` : ""}` : store.state.model}
        </span>
      )}
    </header>
  );
}

function History() {
  const store = useStore("history");
  return (
    <div class="sl-pair" role="group" aria-label="History">
      <button
        type="button"
        class="sl-tool"
        aria-label="Undo (Ctrl Z)"
        title="Undo (Ctrl Z)"
        disabled={!store.history.canUndo}
        onClick={() => store.undo()}
      >
        <Icon name="undo" />
      </button>
      <button
        type="button"
        class="sl-tool"
        aria-label="Redo (Ctrl Shift Z)"
        title="Redo (Ctrl Shift Z)"
        disabled={!store.history.canRedo}
        onClick={() => store.redo()}
      >
        <Icon name="redo" />
      </button>
    </div>
  );
}

/** What a person takes along. */
function Take() {
  const { view } = useScope();
  return (
    <Menu
      label="Share: code, methods, a page"
      class="sl-button sl-small"
      items={[
        { label: "Copy as code…", onPick: () => view.open("code") },
        { label: "Methods and BibTeX…", onPick: () => view.open("methods") },
        { label: "Save as one HTML file…", onPick: () => view.open("html") },
        { label: "Keys…", hint: "?", onPick: () => view.open("keys") },
      ]}
    >
      Share
    </Menu>
  );
}

/** Cells on their way: the bench's mark. */
function Mark() {
  return (
    <svg class="sl-mark" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <circle cx="5.5" cy="14" r="3" class="sl-mark-a" />
      <circle cx="10" cy="6" r="3.6" class="sl-mark-b" />
      <circle cx="15.5" cy="13" r="2.4" class="sl-mark-c" />
    </svg>
  );
}
