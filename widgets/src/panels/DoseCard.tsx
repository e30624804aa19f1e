/** One gene and its dose. */

import { useLayoutEffect, useRef } from "preact/hooks";
import * as format from "../format.ts";
import { useScope, useStore } from "../hooks.ts";
import { DOSE_MAX, doseWords, keyedDose, snapDose } from "../reducers.ts";
import { Icon } from "../ui/icons.tsx";

/** For how long the keys rest before the dose counts as set. */
const REST_MS = 300;
const PRESETS: { dose: number; label: string }[] = [
  { dose: 0, label: "Knock out" },
  { dose: 0.5, label: "Half" },
  { dose: 1, label: "Unchanged" },
  { dose: 2, label: "Double" },
];

interface Props {
  gene: string;
  dose: number;
  onDose: (dose: number, commit: boolean) => void;
  onRemove: () => void;
}

export function DoseCard({ gene, dose, onDose, onRemove }: Props) {
  const { prefix } = useScope();
  const store = useStore("_perturbation", "doses", "genes");
  const name = store.geneLabel(gene);
  const dirty = useRef(false);
  const id = `${prefix}-dose-${gene}`;
  const row = store.shown?.rows.find((item) => item.gene === gene);
  const expressing = store.shown?.expressing?.[gene];
  const waiting = store.computing && (store.get("_perturbation")?.doses[gene] ?? 1) !== dose;

  const tell = useRef(onDose);
  tell.current = onDose;
  const latest = useRef(dose);
  const rest = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const move = (next: number, commit: boolean) => {
    clearTimeout(rest.current);
    dirty.current = !commit;
    latest.current = next;
    tell.current(next, commit);
  };
  const settle = () => {
    if (dirty.current) move(latest.current, true);
  };
  useLayoutEffect(
    () => () => {
      if (gene in store.doses) settle();
    },
    [],
  );
  const onKeyDown = (event: KeyboardEvent) => {
    const next = keyedDose(event.key, dirty.current ? latest.current : dose);
    // Any other key is about the dose as it is now: what undoes it, too.
    if (next === null) return settle();
    event.preventDefault();
    move(next, false);
  };
  // Keys that follow each other are one step and one question, as a drag is.
  const onKeyUp = () => {
    clearTimeout(rest.current);
    if (dirty.current) rest.current = setTimeout(settle, REST_MS);
  };

  return (
    <section class="sl-dose" aria-label={`Dose of ${name}`}>
      <header class="sl-dose-head">
        <label class="sl-gene" for={id} title={gene}>
          {name}
        </label>
        <output class="sl-dose-value" for={id} aria-live="off">
          {format.dose(dose)}
        </output>
        {waiting ? (
          <span class="sl-computing">computing…</span>
        ) : (
          <span class="sl-muted sl-dose-words">{doseWords(dose)}</span>
        )}
        <span class="sl-spring" />
        <button
          type="button"
          class="sl-quiet"
          aria-label={`Remove ${name}`}
          title={`Remove ${name}`}
          onClick={onRemove}
        >
          <Icon name="close" />
        </button>
      </header>
      <input
        id={id}
        class="sl-range sl-range-dose"
        type="range"
        min={0}
        max={DOSE_MAX}
        step={0.01}
        value={dose}
        aria-valuetext={`${dose}, ${doseWords(dose)}`}
        style={{
          "--from": `${50 * Math.min(1, dose)}%`,
          "--to": `${50 * Math.max(1, dose)}%`,
        }}
        onInput={(event) => move(snapDose(Number(event.currentTarget.value)), false)}
        onChange={settle}
        onPointerUp={settle}
        onBlur={settle}
        onKeyDown={onKeyDown}
        onKeyUp={onKeyUp}
      />
      <div class="sl-ticks" aria-hidden="true">
        <span>0</span>
        <span>1</span>
        <span>2</span>
      </div>
      <div class="sl-presets" role="group" aria-label={`Presets for ${name}`}>
        {PRESETS.map((preset) => (
          <button
            type="button"
            key={preset.dose}
            class="sl-preset"
            aria-pressed={dose === preset.dose}
            onClick={() => move(preset.dose, true)}
          >
            {preset.label}
          </button>
        ))}
      </div>
      {(row || expressing !== undefined) && (
        <p class="sl-muted">
          found in {format.count(expressing ?? row!.n_expressing)} of {format.plural(store.n, "cell")}
        </p>
      )}
    </section>
  );
}
