import { describe, expect, it } from "vitest";
import { History, same } from "../src/history.ts";
import { Store } from "../src/store.ts";
import { model, N, tell } from "./bench.ts";

describe("the history", () => {
  it("goes back and forth over what was added, and no further", () => {
    const history = new History<{ at: number }>();
    for (const at of [1, 2, 3]) history.add({ at });
    expect(history.back()).toEqual({ at: 2 });
    expect(history.back()).toEqual({ at: 1 });
    expect(history.back()).toBeNull();
    expect(history.forth()).toEqual({ at: 2 });
    expect(history.canRedo).toBe(true);
  });

  it("takes what equals the present as no step, whatever object it is", () => {
    const history = new History<{ mask: Uint8Array }>();
    expect(history.add({ mask: Uint8Array.of(1, 0) })).toBe(true);
    expect(history.add({ mask: Uint8Array.of(1, 0) })).toBe(false);
    expect(history.canUndo).toBe(false);
  });

  it("forgets what was undone once something new is done", () => {
    const history = new History<{ at: number }>();
    for (const at of [1, 2]) history.add({ at });
    history.back();
    history.add({ at: 5 });
    expect(history.canRedo).toBe(false);
    expect(history.back()).toEqual({ at: 1 });
  });

  it("puts what belongs to the last step in its place", () => {
    const history = new History<{ at: number }>();
    for (const at of [1, 2]) history.add({ at });
    history.amend({ at: 3 });
    expect(history.back()).toEqual({ at: 1 });
    history.forth();
    // Back where it began it is no step at all.
    history.amend({ at: 1 });
    expect(history.canUndo).toBe(false);
  });

  it("forgets what is refused, and stays at what is now beside the gap", () => {
    const history = new History<{ at: number }>();
    for (const at of [1, 2, 3]) history.add({ at });
    history.back();
    history.drop(({ at }) => at === 2, { at: 3 });
    expect([history.canRedo, history.back(), history.canUndo]).toEqual([false, { at: 1 }, false]);
    expect(history.forth()).toEqual({ at: 3 });
    history.add({ at: 4 });
    history.drop(({ at }) => at === 4, { at: 3 });
    expect([history.canRedo, history.back()]).toEqual([false, { at: 1 }]);
    // What is now and was no step yet becomes one, also where nothing else is left.
    history.drop(() => true, { at: 9 });
    expect([history.canUndo, history.canRedo]).toEqual([false, false]);
    history.add({ at: 10 });
    expect(history.back()).toEqual({ at: 9 });
  });

  it("adds nothing while it is held, also after an error", () => {
    const history = new History<{ at: number }>();
    history.add({ at: 1 });
    expect(() =>
      history.hold(() => {
        history.add({ at: 2 });
        throw new Error("no");
      }),
    ).toThrow();
    expect(history.canUndo).toBe(false);
    expect(history.add({ at: 3 })).toBe(true);
  });

  it("compares by value, deeply", () => {
    expect(same({ a: [1, { b: null }] }, { a: [1, { b: null }] })).toBe(true);
    expect(same({ a: 1 }, { a: 1, b: undefined })).toBe(false);
    expect(same({ a: undefined }, { b: undefined })).toBe(false);
  });
});

describe("undo on the bench", () => {
  function store() {
    return new Store(model() as never);
  }

  it("brings back colour, doses and selection, one step at a time", () => {
    const bench = store();
    const first = bench.state.colour;
    bench.patch({ colour: { by: "gene", name: "LYZ" } });
    bench.setSelection(Uint8Array.of(1, 1, 0, 0));
    bench.setDoses({ CD3D: 0 }, true);
    bench.undo();
    expect(bench.doses).not.toEqual({ CD3D: 0 });
    expect([...bench.selection]).toEqual([1, 1, 0, 0]);
    bench.undo();
    expect([...bench.selection]).toEqual(Array(N).fill(0));
    expect(bench.state.colour?.name).toBe("LYZ");
    bench.undo();
    expect(bench.state.colour).toEqual(first);
    bench.redo();
    bench.redo();
    bench.redo();
    expect(bench.doses).toEqual({ CD3D: 0 });
    expect([...bench.selection]).toEqual([1, 1, 0, 0]);
    bench.dispose();
  });

  it("takes a selection that Python sets as a step, and keeps it when something else is undone", async () => {
    const behind = model();
    const bench = new Store(behind as never);
    await tell(behind, { _selection: new DataView(Uint8Array.of(0b0110).buffer) });
    bench.patch({ labels: false });
    bench.undo();
    expect([...bench.selection]).toEqual([0, 1, 1, 0]);
    bench.undo();
    expect([...bench.selection]).toEqual(Array(N).fill(0));
    bench.dispose();
  });

  it("takes a drag of a slider as one step", () => {
    const bench = store();
    const before = bench.doses;
    for (const dose of [0.9, 0.6, 0.3]) bench.setDoses({ CD3D: dose }, false);
    bench.setDoses({ CD3D: 0.2 }, true);
    bench.undo();
    expect(bench.doses).toEqual(before);
    bench.dispose();
  });

  it("leaves the open tab alone", () => {
    const bench = store();
    bench.patch({ labels: false });
    bench.patch({ panel: "somewhere" });
    bench.undo();
    expect(bench.state.panel).toBe("somewhere");
    expect(bench.state.labels).not.toBe(false);
    bench.dispose();
  });
});
