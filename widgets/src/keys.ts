/**
 * Whose a key is. The bench keeps single keys, so that "d d" in a search field deletes no cell of the notebook around it, and
 * what edits a text or undoes; everything else with Ctrl or ⌘ (Ctrl S, Ctrl Shift C) is the notebook's.
 */

export type Pressed = Pick<KeyboardEvent, "key" | "ctrlKey" | "metaKey" | "shiftKey">;

/** With Ctrl or ⌘: undo and redo, and what moves, copies and pastes in a text. */
const OURS = new Set(["a", "c", "v", "x", "y", "z"]);
const EDITING = new Set([
  "arrowdown",
  "arrowleft",
  "arrowright",
  "arrowup",
  "backspace",
  "delete",
  "end",
  "home",
]);

export function isHosts({ key, ctrlKey, metaKey, shiftKey }: Pressed): boolean {
  if (/^F\d+$/.test(key)) return true;
  if (!ctrlKey && !metaKey) return false;
  const name = key.toLowerCase();
  if (EDITING.has(name)) return false;
  return shiftKey ? name !== "z" : !OURS.has(name);
}
