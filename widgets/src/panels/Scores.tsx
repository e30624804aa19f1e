/** What a version reached in evaluations, beside the best method without parameters. */

import { useEffect, useState } from "preact/hooks";
import * as format from "../format.ts";
import { useScope } from "../hooks.ts";

interface Score {
  metric: string;
  value: number;
  low: number | null;
  high: number | null;
  floor: number | null;
  floor_name: string;
  /** Whether the floor is beaten, by the rule of all scores. */
  above: boolean | null;
  n: number | null;
  data_digest: string;
}

const MOST = 6;

export function Scores({ reference }: { reference: string }) {
  const { view } = useScope();
  const [rows, setRows] = useState<Score[]>([]);
  useEffect(() => {
    let gone = false;
    view.question<{ rows: Score[] }>({ type: "scores", reference }, "scores").then(
      (answer) => !gone && setRows(answer.rows),
      // The card is there all the same.
      () => {},
    );
    return () => {
      gone = true;
    };
  }, [reference, view]);
  if (rows.length === 0) return null;
  return (
    <table class="sl-audit sl-scores">
      <caption class="sl-muted">Scores of evaluations, beside the best parameter-free method</caption>
      <thead>
        <tr>
          <th scope="col">metric</th>
          <th scope="col">this</th>
          <th scope="col">floor</th>
        </tr>
      </thead>
      <tbody>
        {rows.slice(0, MOST).map((row) => (
          <tr key={`${row.metric} ${row.data_digest}`} title={where(row)}>
            <th scope="row">{row.metric.replaceAll("_", " ")}</th>
            <td class="sl-number">
              {format.number(row.value)}
              {row.low !== null && row.high !== null && (
                <span class="sl-muted">
                  {" "}
                  {format.number(row.low)}–{format.number(row.high)}
                </span>
              )}
            </td>
            <td class="sl-number">
              {row.floor === null ? (
                <span class="sl-muted">not recorded</span>
              ) : (
                <>
                  {format.number(row.floor)} <span class="sl-muted">{row.floor_name}</span>
                  {!row.above && " "}
                  {!row.above && <span class="sl-chip sl-chip-warn">not above it</span>}
                </>
              )}
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function where({ n, data_digest: digest }: Score): string {
  return `${n ? `${format.plural(n, "cell")}, ` : ""}${digest.slice(0, 19)}`;
}
