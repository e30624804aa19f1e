/** The registry's models: what each is, under which licence, and whether it runs here. */

import { useState } from "preact/hooks";
import * as format from "../format.ts";
import { useScope, useStore } from "../hooks.ts";
import { isPicked } from "../reducers.ts";
import type { ModelRow } from "../types.ts";
import { Icon } from "../ui/icons.tsx";

const FIT_CLASS = { fits: "sl-good", tight: "sl-warn", "does not fit": "sl-bad", unknown: "" } as const;

export function Models() {
  const { prefix } = useScope();
  const store = useStore("_models", "_hardware", "state");
  const [typed, setTyped] = useState("");
  const models = store.get("_models");
  const query = typed.trim().toLowerCase();
  const rows = (models?.rows ?? []).filter((row) => !query || searchText(row).includes(query));
  const picked = store.state.model;
  const pickable = rows.filter((row) => !row.blocked);

  const onKeyDown = (event: KeyboardEvent) => {
    const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (!step || pickable.length === 0) return;
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
          {query ? `No model matches “${typed.trim()}”.` : "The registry holds no model yet."}
        </p>
      )}
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
  const facts = [
    row.kind || row.family,
    row.parameters ? `${format.number(row.parameters / 1e6)} M parameters` : "",
    row.licence ?? "no licence stated",
  ].filter(Boolean);
  return (
    <button
      type="button"
      id={id}
      role="radio"
      class={`sl-model ${picked ? "sl-picked" : ""}`}
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
        {facts.join(" · ")}
        {row.commercial === false && <span class="sl-chip sl-chip-warn">non-commercial</span>}
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

function searchText(row: ModelRow): string {
  const parts = [
    row.name,
    row.family,
    row.kind,
    row.licence,
    row.description,
    ...row.aliases,
    ...row.tags,
    ...row.abilities,
  ];
  return parts.join(" ").toLowerCase();
}
