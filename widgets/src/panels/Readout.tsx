/** Which read-out a list shows, where a result has several. */

import { useScope } from "../hooks.ts";
import { readoutName } from "../readouts.ts";

interface Props {
  /** Of the select, as it may stand twice on a page. */
  name: string;
  readouts: readonly string[];
  shown: string;
  target?: string | null;
  onPick: (readout: string) => void;
}

export function Readout({ name, readouts, shown, target, onPick }: Props) {
  const { prefix } = useScope();
  if (readouts.length < 2) return null;
  return (
    <label class="sl-field" for={`${prefix}-${name}-readout`}>
      <span class="sl-field-label">Read-out</span>
      <select
        id={`${prefix}-${name}-readout`}
        class="sl-select"
        value={shown}
        onChange={(event) => onPick(event.currentTarget.value)}
      >
        {readouts.map((readout) => (
          <option key={readout} value={readout}>
            {readoutName(readout, target)}
          </option>
        ))}
      </select>
    </label>
  );
}
