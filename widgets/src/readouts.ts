/** What a perturbation is read by: how far cells move, or whether towards a target, and what else was asked for. */

const TOWARDS = "towards_target";

/** Read-outs of rows, in their order; the first is what is shown first: towards the target, where somebody has named one. */
export function readoutsOf(rows: readonly { readout: string }[]): string[] {
  const found = [...new Set(rows.map(({ readout }) => readout))];
  return found.includes(TOWARDS) ? [TOWARDS, ...found.filter((name) => name !== TOWARDS)] : found;
}

/** The read-out that is picked, if there is one of that name, else the first. */
export function readoutShown(readouts: readonly string[], picked: string | null): string {
  return readouts.find((name) => name === picked) ?? readouts[0];
}

/** A read-out as it stands in a list. */
export function readoutName(readout: string, target?: string | null): string {
  const names: Record<string, string> = {
    shift: "Shift",
    [TOWARDS]: target ? `Towards ${target}` : "Towards the target",
    expression: "Predicted expression",
    label: "Label",
  };
  return names[readout] ?? readout;
}

/** What its numbers are. */
export function readoutWords(readout: string, target?: string | null): string {
  const words: Record<string, string> = {
    shift: "mean shift",
    [TOWARDS]: `mean movement towards ${target ?? "the target"} (negative: away)`,
    expression: "mean change of predicted log expression",
    label: "share of cells with another label",
  };
  return words[readout] ?? `mean ${readout}`;
}
