/** What a click on the plane does, and Escape. */

import { type Combine, countOnes } from "../reducers.ts";
import type { Store } from "../store.ts";

/** A click on a cell, -1 = on none. Only a plain one clears the selection: with a key held it was meant to add or take away. */
export function clicked(store: Store, cell: number, mode: Combine) {
  if (store.rooting) {
    if (cell < 0) return;
    store.setRooting(false);
    store.patch({ root: { cell } });
  } else if (cell < 0 && mode === "replace" && countOnes(store.selection)) {
    store.setSelection(new Uint8Array(store.n));
  }
}

/** One cell more in the selection, or one less. */
export function turned(store: Store, cell: number) {
  const mask = store.selection.slice();
  mask[cell] = mask[cell] ? 0 : 1;
  store.setSelection(mask);
}

/** Escape leaves one thing at a time: first the picking of a root, then the selection. */
export function escaped(store: Store) {
  if (store.rooting) store.setRooting(false);
  else if (countOnes(store.selection)) store.setSelection(new Uint8Array(store.n));
}
