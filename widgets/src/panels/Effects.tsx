/** The effect per group as a dot, what comparable genes do as a grey band, and the verdict in words. */

import { scaleLinear } from "d3-scale";
import * as format from "../format.ts";
import { useKept, useStore } from "../hooks.ts";
import { readoutShown, readoutsOf, readoutWords } from "../readouts.ts";
import {
  anyChange,
  band,
  besideNull,
  changeWords,
  hasLevels,
  isDistinct,
  testedOf,
  verdictWords,
} from "../reducers.ts";
import type { EffectRow } from "../types.ts";
import { Readout } from "./Readout.tsx";

const WIDTH = 272;
const HEIGHT = 16;
const INSET = 6;

export function Effects() {
  const store = useStore("_perturbation", "doses");
  const [picked, setPicked] = useKept<string | null>("effects.readout", null);
  const shown = store.shown;
  if (!shown || !(anyChange(shown.doses) || hasLevels(shown))) return null;
  const readouts = readoutsOf(shown.rows);
  const main = readoutShown(readouts, picked);
  const rows = shown.rows.filter(({ readout }) => readout === main);
  if (rows.length === 0) return null;
  const scale = effectScale(rows);
  const { computing, outdated } = store;

  return (
    <section class={`sl-effects ${computing || outdated ? "sl-stale" : ""}`} aria-label="Effect per group">
      <h2 class="sl-heading">
        Effect{shown.groupby ? ` by ${shown.groupby}` : ""}
        {/* How far it is stands above, with what stops it. */}
        {!outdated && shown.null === "pending" && <span class="sl-computing">null: computing…</span>}
        {!outdated && shown.null === "stopped" && (
          <span class="sl-muted sl-stopped">
            null: stopped{" "}
            <button
              type="button"
              class="sl-link"
              onClick={() => void store.act({ type: "perturb", doses: store.doses, commit: true })}
            >
              Compute it
            </button>
          </span>
        )}
      </h2>
      {outdated && <Outdated computing={computing} of={changeWords(shown)} />}
      {hasLevels(shown) && <p class="sl-muted">{changeWords(shown)}</p>}
      {shown.of && <p class="sl-muted">From {shown.of}, which is not the model that is picked.</p>}
      <Readout name="effects" readouts={readouts} shown={main} target={shown.target} onPick={setPicked} />
      <p class="sl-muted sl-key">
        <span>
          <span class="sl-key-dot" aria-hidden="true" /> {readoutWords(main, shown.target)}
        </span>
        {(shown.null === "ready" || shown.null === "pending") && (
          <span>
            <span class="sl-key-band" aria-hidden="true" /> comparable genes
          </span>
        )}
        {rows.some(({ q_value: q }) => q != null) && (
          <span title="Corrected for the number of groups">
            <span class="sl-key-dot sl-distinct" aria-hidden="true" /> q ≤ 0.05
          </span>
        )}
      </p>
      <ul class="sl-effect-list">
        {rows.map((row) => (
          <Effect
            key={`${row.gene} ${row.group}`}
            row={row}
            scale={scale}
            pending={shown.null === "pending"}
            tells={outdated ? "nothing" : computing ? "estimate" : "verdict"}
          />
        ))}
      </ul>
      <Axis scale={scale} />
    </section>
  );
}

/** Of which doses the effects are, where those of the sliders have no answer, or none yet. */
export function Outdated({ of, computing }: { of: string; computing: boolean }) {
  const store = useStore("doses", "_perturbation");
  return (
    <p class="sl-outdated" role={computing ? undefined : "status"}>
      Of {of}
      {computing ? "; the present doses are being computed." : "; there is no answer to the present doses. "}
      {!computing && (
        <button
          type="button"
          class="sl-link"
          onClick={() => void store.act({ type: "perturb", doses: store.doses, commit: true })}
        >
          Compute it
        </button>
      )}
    </p>
  );
}

type Scale = ReturnType<typeof effectScale>;

function effectScale(rows: readonly EffectRow[]) {
  const ends = [0];
  for (const row of rows) {
    const effect = besideNull(row);
    if (effect != null) ends.push(effect);
    ends.push(...(band(row) ?? []));
  }
  const low = Math.min(...ends);
  const high = Math.max(...ends);
  // A shift is a length: where everything is positive the axis begins at nothing.
  const from = rows.every(({ effect }) => (effect ?? 0) >= 0) ? 0 : low;
  return scaleLinear()
    .domain([from, high > from ? high : from + 1])
    .range([INSET, WIDTH - INSET])
    .nice(4)
    .clamp(true);
}

function Effect({
  row,
  scale,
  pending,
  tells,
}: {
  row: EffectRow;
  scale: Scale;
  pending: boolean;
  tells: "verdict" | "estimate" | "nothing";
}) {
  const { null_mean: mean } = row;
  const effect = besideNull(row);
  const some = testedOf(row);
  const spread = band(row);
  const judged = tells === "verdict";
  const said = judged ? verdictWords(row) || (pending ? "" : "null not computed") : "";
  const words = tells === "estimate" ? "estimated" : said;
  const name = row.group === "all" ? "All cells" : row.group;
  const tests = judged ? testsOf(row) : [];
  const tested = some > 0 ? `(${format.count(some)} tested)` : "";
  return (
    <li class="sl-effect">
      <div class="sl-effect-head">
        <span class="sl-effect-of" title={tested ? `${name} ${tested}` : name}>
          <span class="sl-effect-name">{name}</span>
          {tested && (
            <>
              {" "}
              <span class="sl-muted sl-nowrap">{tested}</span>
            </>
          )}
        </span>
        <span class="sl-muted sl-express" title="Cells that express it, of all cells">
          {format.count(row.n_expressing)} of {format.count(row.n_cells)}
        </span>
        <span class="sl-number" title={some ? `Mean over the ${format.count(some)} cells tested` : undefined}>
          {format.number(effect)}
        </span>
      </div>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={spoken(row, tested ? `${name} ${tested}` : name, [words, ...tests].join(", "))}
        preserveAspectRatio="none"
      >
        <line class="sl-effect-line" x1={INSET} x2={WIDTH - INSET} y1={HEIGHT / 2} y2={HEIGHT / 2} />
        {spread && (
          <rect
            class="sl-effect-band"
            x={scale(spread[0])}
            width={Math.max(2, scale(spread[1]) - scale(spread[0]))}
            y={1}
            height={HEIGHT - 2}
            rx={2}
          />
        )}
        {mean != null && (
          <line class="sl-effect-mean" x1={scale(mean)} x2={scale(mean)} y1={2} y2={HEIGHT - 2} />
        )}
        {effect != null && (
          <circle
            class={judged && isDistinct(row) ? "sl-effect-dot sl-distinct" : "sl-effect-dot"}
            cx={scale(effect)}
            cy={HEIGHT / 2}
            r={4.5}
          />
        )}
      </svg>
      {words && (
        <p class="sl-verdict">
          {words}
          {tests.length > 0 && <span class="sl-muted sl-nowrap"> · {tests.join(" · ")}</span>}
        </p>
      )}
    </li>
  );
}

function testsOf({ p_value: p, q_value: q }: EffectRow): string[] {
  const told = p == null ? [] : [`p ${format.pValue(p)}`];
  return q == null ? told : [...told, `q ${format.pValue(q)}`];
}

function spoken(row: EffectRow, name: string, words: string): string {
  const spread = band(row);
  const beside = spread
    ? `; comparable genes from ${format.number(spread[0])} to ${format.number(spread[1])}`
    : "";
  return `${name}: effect ${format.number(besideNull(row))}${beside}. ${words}`;
}

function Axis({ scale }: { scale: Scale }) {
  return (
    <svg class="sl-axis" viewBox={`0 0 ${WIDTH} 20`} aria-hidden="true">
      {scale.ticks(4).map((tick) => (
        <g key={tick}>
          <line x1={scale(tick)} x2={scale(tick)} y1={0} y2={4} />
          <text x={scale(tick)} y={15} text-anchor="middle">
            {format.number(tick)}
          </text>
        </g>
      ))}
    </svg>
  );
}
