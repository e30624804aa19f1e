/** The registry's models: what each is, under which licence, and whether it runs here. */

import { useEffect } from "preact/hooks";
import { useKept, useScope, useStore } from "../hooks.ts";
import { isFound, licenceWarning, modelFacts } from "../models.ts";
import { isBusy, isPicked } from "../reducers.ts";
import type { ModelRow } from "../types.ts";
import { Icon } from "../ui/icons.tsx";
import { JobStatus } from "../ui/Progress.tsx";
import { Lineage } from "./Lineage.tsx";
import { Scores } from "./Scores.tsx";

const FIT_CLASS = { fits: "sl-good", tight: "sl-warn", "does not fit": "sl-bad", unknown: "" } as const;

export function Models() {
  const { prefix } = useScope();
  const store = useStore("_models", "_hardware", "state");
  const [typed, setTyped] = useKept("models.typed", "");
  const [kind, setKind] = useKept<string | null>("models.kind", null);
  const models = store.get("_models");
  // Somebody may have registered or promoted a version since; what was read before stands until the answer.
  useEffect(() => {
    if (store.get("_models")?.status === "ready" && !store.get("_meta").static)
      store.requests.ask({ type: "models" }, "models").catch(() => {});
  }, [store]);
  const all = models?.rows ?? [];
  const rows = all.filter((row) => isFound(row, typed) && (kind === null || row.kind === kind));
  const kinds = [...new Set(all.map((row) => row.kind).filter(Boolean))];
  const picked = store.state.model;
  const pickable = rows.filter((row) => !row.blocked);

  const onKeyDown = (event: KeyboardEvent) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    const onRadio = (event.target as Element).getAttribute("role") === "radio";
    if (!step || !onRadio || pickable.length === 0) return;
    event.preventDefault();
    const at = pickable.findIndex((row) => isPicked(row, picked));
    const next = pickable[(at + step + pickable.length) % pickable.length];
    store.patch({ model: next.source });
    document.getElementById(`${prefix}-model-${rows.indexOf(next)}`)?.focus();
  };

  return (
    <div class="sl-panel">
      <div class="sl-search">
        <Icon name="search" />
        <input
          type="search"
          placeholder="Name, family, licence, tag…"
          aria-label="Search the models"
          value={typed}
          onInput={(event) => setTyped(event.currentTarget.value)}
        />
      </div>
      {kinds.length > 1 && (
        <div class="sl-presets" role="group" aria-label="Kind of model">
          {[null, ...kinds].map((item) => (
            <button
              type="button"
              key={item ?? "all"}
              class="sl-preset"
              aria-pressed={kind === item}
              onClick={() => setKind(item)}
            >
              {item ?? "all"}
            </button>
          ))}
        </div>
      )}
      {models?.status === "loading" && rows.length === 0 && <Skeleton />}
      <div class="sl-models" role="radiogroup" aria-label="Models" onKeyDown={onKeyDown}>
        {rows.map((row, index) => (
          <ModelCard
            key={row.source}
            id={`${prefix}-model-${index}`}
            row={row}
            picked={isPicked(row, picked)}
            focusable={
              isPicked(row, picked) || (!pickable.some((r) => isPicked(r, picked)) && row === pickable[0])
            }
            onPick={() => store.patch({ model: row.source })}
          />
        ))}
      </div>
      {models?.status === "ready" && rows.length === 0 && (
        <p class="sl-empty-line">
          {typed.trim() ? `No model matches “${typed.trim()}”.` : "The registry holds no model yet."}
        </p>
      )}
      <Import />
      {models?.note && <p class="sl-muted">{models.note}</p>}
      {store.get("_hardware") && <p class="sl-muted sl-hardware">This machine: {store.get("_hardware")}</p>}
    </div>
  );
}

interface CardProps {
  id: string;
  row: ModelRow;
  picked: boolean;
  focusable: boolean;
  onPick: () => void;
}

function ModelCard({ id, row, picked, focusable, onPick }: CardProps) {
  const warning = licenceWarning(row);
  const { view } = useScope();
  return (
    <div class={`sl-model ${picked ? "sl-picked" : ""} ${row.blocked ? "sl-greyed" : ""}`}>
      <button
        type="button"
        id={id}
        role="radio"
        class="sl-model-pick"
        aria-checked={picked}
        aria-disabled={!!row.blocked}
        tabIndex={focusable ? 0 : -1}
        onClick={() => !row.blocked && onPick()}
      >
        <span class="sl-model-head">
          <span class="sl-radio" aria-hidden="true" />
          <span class="sl-model-name">{row.name}</span>
          {row.version && <span class="sl-muted">v{row.version}</span>}
          {row.aliases.map((alias) => (
            <span class="sl-chip" key={alias}>
              @{alias}
            </span>
          ))}
          <span class="sl-spring" />
          {row.fit.verdict !== "unknown" && (
            <span class={`sl-fit ${FIT_CLASS[row.fit.verdict]}`} title={row.fit.reason}>
              {row.fit.verdict}
            </span>
          )}
        </span>
        {row.description && <span class="sl-model-text">{row.description}</span>}
        <span class="sl-model-facts">
          {modelFacts(row).join(" · ")}
          {warning && <span class="sl-chip sl-chip-warn">{warning}</span>}
          {row.tags.map((tag) => (
            <span class="sl-chip" key={tag}>
              {tag}
            </span>
          ))}
        </span>
        {row.blocked ? (
          <span class="sl-blocked">{row.blocked}</span>
        ) : (
          picked && row.fit.reason && <span class="sl-model-facts">{row.fit.reason}</span>
        )}
      </button>
      {row.reference && (
        <button
          type="button"
          class="sl-link sl-model-card"
          aria-label={`Card of ${row.reference}`}
          onClick={() => view.open(row.reference)}
        >
          Card
        </button>
      )}
      {picked && row.reference && (
        <div class="sl-model-more">
          <Scores reference={row.reference} />
          <Lineage reference={row.reference} />
        </div>
      )}
    </div>
  );
}

/** A checkpoint's folder into the registry. */
function Import() {
  const { prefix } = useScope();
  const store = useStore("_job", "_meta");
  const [open, setOpen] = useKept("import.open", false);
  const [path, setPath] = useKept("import.path", "");
  const [name, setName] = useKept("import.name", "");
  const running = isBusy(store.get("_job"));
  if (store.get("_meta").static) return null;
  if (!open) {
    return (
      <>
        <button type="button" class="sl-button sl-wide" onClick={() => setOpen(true)}>
          <Icon name="folder" /> Import a checkpoint's folder…
        </button>
        <JobStatus kinds={["import"]} />
      </>
    );
  }
  const ready = path.trim() !== "" && /^[A-Za-z0-9._-]+$/.test(name.trim());
  return (
    <form
      class="sl-import"
      aria-label="Import a checkpoint"
      onSubmit={(event) => {
        event.preventDefault();
        if (ready && !running) void store.act({ type: "import", path: path.trim(), name: name.trim() });
      }}
    >
      <label class="sl-field-tall" for={`${prefix}-import-path`}>
        <span class="sl-muted">Folder on the machine of the kernel, as its authors publish it</span>
        <input
          id={`${prefix}-import-path`}
          class="sl-input"
          value={path}
          placeholder="/data/scGPT_human"
          spellcheck={false}
          onInput={(event) => {
            const typed = event.currentTarget.value;
            setPath(typed);
            const last =
              typed
                .replace(/[\\/]+$/, "")
                .split(/[\\/]/)
                .pop() ?? "";
            setName(last.toLowerCase().replace(/[^a-z0-9.-]+/g, "-"));
          }}
        />
      </label>
      <label class="sl-field-tall" for={`${prefix}-import-name`}>
        <span class="sl-muted">Name in the registry</span>
        <input
          id={`${prefix}-import-name`}
          class="sl-input"
          value={name}
          spellcheck={false}
          onInput={(event) => setName(event.currentTarget.value)}
        />
      </label>
      <div class="sl-actions">
        <button type="submit" class="sl-button sl-primary" disabled={!ready || running}>
          Import
        </button>
        <button type="button" class="sl-button" onClick={() => setOpen(false)}>
          Close
        </button>
      </div>
      <JobStatus kinds={["import"]} />
    </form>
  );
}

function Skeleton() {
  return (
    <div class="sl-skeleton" role="status" aria-label="Reading the registry">
      <span />
      <span />
      <span />
    </div>
  );
}
