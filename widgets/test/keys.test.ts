import { describe, expect, it } from "vitest";
import { isHosts, type Pressed } from "../src/keys.ts";

function press(keys: string): Pressed {
  const parts = keys.split(" ");
  return {
    key: parts.at(-1)!,
    ctrlKey: parts.includes("Ctrl"),
    metaKey: parts.includes("Meta"),
    shiftKey: parts.includes("Shift"),
  };
}

describe("a key", () => {
  it("with Ctrl or ⌘ that the bench has no use for is the notebook's", () => {
    for (const keys of ["Ctrl s", "Meta s", "Ctrl Enter", "Ctrl b", "Ctrl Shift C", "Ctrl Shift A", "F9"])
      expect(isHosts(press(keys)), keys).toBe(true);
  });

  it("alone never is: it might delete a cell", () => {
    for (const keys of ["d", "a", "Enter", "Shift Enter", "Escape", "?", "ArrowUp", "Control"])
      expect(isHosts(press(keys)), keys).toBe(false);
  });

  it("that undoes, or edits a text, is not", () => {
    for (const keys of [
      "Ctrl z",
      "Ctrl Shift Z",
      "Ctrl y",
      "Meta c",
      "Ctrl v",
      "Ctrl ArrowLeft",
      "Ctrl Backspace",
    ])
      expect(isHosts(press(keys)), keys).toBe(false);
  });
});
