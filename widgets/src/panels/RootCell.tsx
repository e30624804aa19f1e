/** A cell as the root of a trajectory: by a click in the plane, by its name, or the one that is selected. */

import { useEffect, useState } from "preact/hooks";
import { useScope, useStore } from "../hooks.ts";
import { countOnes } from "../reducers.ts";
import { Combobox } from "../ui/Combobox.tsx";
import { Icon } from "../ui/icons.tsx";

interface Found {
  typed: string;
  cells: { cell: number; name: string; group: string }[];
}

export function RootCell({ cell }: { cell: number | undefined }) {
  const { view } = useScope();
  const store = useStore("rooting", "selection", "state");
  const [asked, setAsked] = useState("");
  const [found, setFound] = useState<Found | null>(null);
  const [known, setKnown] = useState<{ cell: number; name: string } | null>(null);
  const only = countOnes(store.selection) === 1 ? store.selection.indexOf(1) : -1;

  const find = (typed: string) => {
    setAsked(typed);
    view.question<Omit<Found, "typed">>({ type: "find", typed }, "find").then(
      ({ cells }) => setFound({ typed, cells }),
      // A newer question has taken its place, or nobody answers, which stands above the bench.
      () => {},
    );
  };
  useEffect(() => {
    if (cell === undefined || known?.cell === cell) return;
    view.question<{ name: string }>({ type: "cell", cell, colour: null }, "root").then(
      ({ name }) => setKnown({ cell, name }),
      () => {},
    );
  }, [cell, known, view]);
  const take = (root: number) => {
    store.setRooting(false);
    store.patch({ root: { cell: root } });
  };
  return (
    <>
      <Combobox
        name="root-cell"
        label="Begin at a cell by its name"
        placeholder="…or a cell by its name"
        shown={cell !== undefined && known?.cell === cell ? known.name : ""}
        suggest={(typed) =>
          (found?.typed === typed ? found.cells : []).map(({ cell: row, name, group }) => ({
            value: String(row),
            label: name,
            hint: group,
          }))
        }
        onOpen={() => find("")}
        onType={find}
        waiting={found?.typed !== asked}
        onPick={({ value }) => take(Number(value))}
        empty={(typed) => (found?.typed === typed ? `No cell is called “${typed.trim()}”.` : "Looking…")}
      />
      <div class="sl-actions">
        <button
          type="button"
          class="sl-button"
          aria-pressed={store.rooting}
          onClick={() => store.setRooting(!store.rooting)}
        >
          <Icon name="target" />
          {store.rooting ? "Click a cell in the plane…" : "Pick a cell by clicking"}
        </button>
        <button
          type="button"
          class="sl-button"
          disabled={only < 0 || only === cell}
          title={
            only < 0 ? "Select one cell; here it becomes the root" : "The selected cell becomes the root"
          }
          onClick={() => take(only)}
        >
          Selected cell
        </button>
      </div>
    </>
  );
}
