/** Along pseudotime: a scrubber that lets cells appear in order, and genes as they rise and fall. */

import { scaleLinear } from "d3-scale";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { geneOptions, noGene } from "../genes.ts";
import { useScope, useStore } from "../hooks.ts";
import { categoryColour, css, type Theme } from "../palette.ts";
import { Superseded } from "../requests.ts";
import { trendOnce } from "../trend.ts";
import type { Column } from "../types.ts";
import { Combobox } from "../ui/Combobox.tsx";
import { Icon } from "../ui/icons.tsx";

const PLAY_MS = 3200;
const WIDTH = 272;
const HEIGHT = 92;
const LEFT = 26;
const MOST_GENES = 4;

export function Scrubber() {
  const { prefix } = useScope();
  const store = useStore("scrub", "_trajectory");
  const frame = useRef(0);
  const [playing, setPlaying] = useState(false);
  useLayoutEffect(
    () => () => {
      cancelAnimationFrame(frame.current);
      store.setScrub(null);
    },
    [store],
  );
  const stop = () => {
    cancelAnimationFrame(frame.current);
    setPlaying(false);
  };
  const play = () => {
    stop();
    setPlaying(true);
    const begin = performance.now();
    const step = () => {
      const u = (performance.now() - begin) / PLAY_MS;
      store.setScrub(u < 1 ? u : null);
      if (u < 1) frame.current = requestAnimationFrame(step);
      else setPlaying(false);
    };
    step();
  };
  const at = store.scrub ?? 1;
  return (
    <div class="sl-scrub">
      <button
        type="button"
        class="sl-tool"
        aria-label={playing ? "Stop" : "Play along pseudotime"}
        title={playing ? "Stop" : "Play along pseudotime"}
        onClick={playing ? stop : play}
      >
        <Icon name={playing ? "stop" : "play"} />
      </button>
      <label class="sl-muted" for={`${prefix}-scrub`}>
        up to
      </label>
      <input
        id={`${prefix}-scrub`}
        class="sl-range"
        type="range"
        min={0}
        max={1}
        step={0.01}
        value={at}
        style={{ "--fill": `${100 * at}%` }}
        aria-label="Cells up to a pseudotime"
        onInput={(event) => {
          stop();
          const value = Number(event.currentTarget.value);
          store.setScrub(value >= 1 ? null : value);
        }}
      />
      <output class="sl-number" aria-live="off">
        {at.toFixed(2)}
      </output>
    </div>
  );
}

export function Trends() {
  const { theme } = useScope();
  const store = useStore("genes", "columns", "_trajectory", "scrub", "state");
  const genes = store.state.follow ?? [];
  const setGenes = (follow: string[]) => store.patch({ follow });
  const times = store.column({ by: "result", name: "pseudotime" });
  const columns = genes.map((name) => store.column({ by: "gene", name }));
  const shown = columns.flatMap((column, index) => (column ? [{ column, index }] : []));
  const meta = store.get("_meta");
  const found = store.get("_trajectory");
  const paths = found?.ends ?? [];
  const byPath = !!store.state.by_path && !meta.static && paths.length > 1;
  return (
    <section>
      <h2 class="sl-heading">Genes along the way</h2>
      {genes.length < MOST_GENES && (
        <Combobox
          name="trend"
          label="Gene to follow along pseudotime"
          placeholder="Follow a gene…"
          suggest={(typed) =>
            geneOptions(
              store,
              (store.genes ?? []).filter((name) => !genes.includes(name)),
              typed,
              40,
            )
          }
          onOpen={() => void store.geneNames().catch(() => {})}
          waiting={!store.genes}
          onPick={({ value }) => setGenes([...genes, value])}
          empty={(typed) => (store.genes ? noGene(store, store.genes, typed) : "Reading the gene names…")}
        />
      )}
      {genes.length > 0 && (
        <ul class="sl-chips">
          {genes.map((name, index) => (
            <li key={name}>
              <button
                type="button"
                class="sl-gene-chip"
                aria-label={`Stop following ${store.geneLabel(name)}`}
                title={`Stop following ${store.geneLabel(name)}`}
                onClick={() => setGenes(genes.filter((other) => other !== name))}
              >
                <span class="sl-swatch" style={{ background: css(categoryColour(index, theme)) }} />
                <i>{store.geneLabel(name)}</i> <Icon name="close" />
              </button>
            </li>
          ))}
        </ul>
      )}
      {genes.length > 0 && paths.length > 1 && !meta.static && (
        <label class="sl-check">
          <input
            type="checkbox"
            checked={byPath}
            onChange={(event) => store.patch({ by_path: event.currentTarget.checked })}
          />
          A curve for each path
        </label>
      )}
      {byPath && genes.length > 0 && <ByPath genes={genes} ends={paths} version={found?.version ?? 0} />}
      {!byPath && times && shown.length > 0 && (
        <Chart lines={inStretches(times, shown, theme)} scrub={store.scrub} />
      )}
      {!byPath && genes.length > 0 && (
        <p class="sl-muted">
          Mean of {shown[0]?.column.unit || "expression"} in twelve stretches of pseudotime; the band is its
          standard error.
        </p>
      )}
      {meta.static && store.genes && store.genes.length < meta.n_genes && (
        <p class="sl-muted">This page holds {store.genes.length} genes.</p>
      )}
    </section>
  );
}

interface Line {
  name: string;
  colour: string;
  points: { time: number; mean: number; low: number; high: number }[];
}

/** Genes over all cells, each in its own colour. */
function inStretches(times: Column, shown: { column: Column; index: number }[], theme: Theme): Line[] {
  return shown.map(({ column, index }) => ({
    name: column.title,
    colour: css(categoryColour(index, theme)),
    points: trendOnce(times.codes, column).map(({ time, mean, error }) => ({
      time,
      mean,
      low: Math.max(0, mean - error),
      high: mean + error,
    })),
  }));
}

interface Curve {
  gene: string;
  path: string;
  pseudotime: number[];
  mean: number[];
  low: number[];
  high: number[];
}

/** Each gene along each path: cells weighted by how likely they come to its end. */
function ByPath({ genes, ends, version }: { genes: string[]; ends: string[]; version: number }) {
  const { theme, view } = useScope();
  const store = useStore("scrub");
  const [told, setTold] = useState<{ curves: Curve[]; unit: string } | null>(null);
  const [fault, setFault] = useState<string | null>(null);
  const asked = genes.join("\n");
  useEffect(() => {
    let gone = false;
    setFault(null);
    view
      .question<{ curves: Curve[]; unit: string }>({ type: "trends", genes: asked.split("\n") }, "trends")
      .then(
        (answer) => !gone && answer.curves && setTold(answer),
        (error: Error) => !gone && !(error instanceof Superseded) && setFault(error.message),
      );
    return () => {
      gone = true;
    };
  }, [asked, version, view]);
  if (fault) return <p class="sl-failed">{fault}</p>;
  if (!told) return <p class="sl-muted sl-computing">computing…</p>;
  return (
    <>
      <ul class="sl-chips">
        {ends.map((end, index) => (
          <li key={end} class="sl-end-name">
            <span class="sl-swatch" style={{ background: css(categoryColour(index, theme)) }} /> {end}
          </li>
        ))}
      </ul>
      {genes.map((gene) => {
        const lines = told.curves
          .filter((curve) => curve.gene === gene)
          .map(({ path, pseudotime, mean, low, high }) => ({
            name: `${store.geneLabel(gene)} to ${path}`,
            colour: css(categoryColour(Math.max(0, ends.indexOf(path)), theme)),
            points: pseudotime.map((time, k) => ({ time, mean: mean[k], low: low[k], high: high[k] })),
          }));
        return (
          lines.length > 0 && (
            <figure key={gene} class="sl-figure">
              <figcaption>
                <i>{store.geneLabel(gene)}</i>
              </figcaption>
              <Chart lines={lines} scrub={store.scrub} />
            </figure>
          )
        );
      })}
      <p class="sl-muted">
        Splines through log(1 + counts per 10,000); the band is a 95 % bootstrap interval over {told.unit}.
      </p>
    </>
  );
}

function Chart({ lines, scrub }: { lines: Line[]; scrub: number | null }) {
  const top = Math.max(...lines.flatMap(({ points }) => points.map(({ high }) => high)), 1e-9);
  const x = scaleLinear()
    .domain([0, 1])
    .range([LEFT, WIDTH - 6]);
  const y = scaleLinear()
    .domain([0, top])
    .nice(3)
    .range([HEIGHT - 18, 6]);
  const words = lines
    .map(
      ({ name, points }) => `${name} from ${points[0]?.mean.toFixed(2)} to ${points.at(-1)?.mean.toFixed(2)}`,
    )
    .join("; ");
  return (
    <svg
      class="sl-trend"
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      role="img"
      aria-label={`Along pseudotime: ${words}`}
    >
      {y.ticks(3).map((tick) => (
        <g key={tick}>
          <line class="sl-grid" x1={LEFT} x2={WIDTH - 6} y1={y(tick)} y2={y(tick)} />
          <text x={LEFT - 4} y={y(tick) + 3.5} text-anchor="end">
            {tick}
          </text>
        </g>
      ))}
      {[0, 0.5, 1].map((tick) => (
        <text
          key={tick}
          x={x(tick)}
          y={HEIGHT - 4}
          text-anchor={tick === 0 ? "start" : tick === 1 ? "end" : "middle"}
        >
          {tick}
        </text>
      ))}
      {lines.map(({ name, colour, points }) => {
        const upper = points.map(({ time, high }) => `${x(time)},${y(high)}`);
        const lower = points.map(({ time, low }) => `${x(time)},${y(Math.max(0, low))}`).reverse();
        return (
          <g key={name}>
            <polygon points={[...upper, ...lower].join(" ")} fill={colour} opacity={0.18} />
            <polyline
              points={points.map(({ time, mean }) => `${x(time)},${y(Math.max(0, mean))}`).join(" ")}
              fill="none"
              stroke={colour}
              stroke-width={2}
            />
          </g>
        );
      })}
      {scrub !== null && <line class="sl-scrub-line" x1={x(scrub)} x2={x(scrub)} y1={4} y2={HEIGHT - 18} />}
      <title>{words}</title>
    </svg>
  );
}
