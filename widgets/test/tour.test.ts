import { afterEach, describe, expect, it } from "vitest";
import { panelSession } from "../src/session.ts";
import { type Model, Store } from "../src/store.ts";
import { HINTS, hintAfter, onOver, tellOver } from "../src/tour.ts";
import { model, tell } from "./bench.ts";

const OVER = HINTS.length;

describe("hints for a first visit", () => {
  it("go on to the next once somebody does what they say", () => {
    expect(hintAfter(0, ["model"])).toBe(1);
    expect(hintAfter(1, ["colour", "range"])).toBe(2);
    expect(hintAfter(1, ["selection"])).toBe(2);
    expect(hintAfter(2, ["doses"])).toBe(OVER);
  });

  it("pass over what somebody has come to know without them", () => {
    expect(hintAfter(0, ["colour"])).toBe(2);
    expect(hintAfter(0, ["panel"], "perturb")).toBe(2);
    expect(hintAfter(0, ["doses"])).toBe(OVER);
  });

  it("stay while somebody does more of what the last one said, or opens the panel that they are about", () => {
    expect(hintAfter(1, ["model"])).toBe(1);
    expect(hintAfter(2, ["hidden"])).toBe(2);
    expect(hintAfter(0, ["panel"], "models")).toBe(0);
    expect(hintAfter(2, ["panel"], "screen")).toBe(2);
  });

  it("go where somebody goes another way", () => {
    for (const step of [0, 1, 2]) {
      expect(hintAfter(step, ["panel"], "run")).toBe(OVER);
      expect(hintAfter(step, ["panel"], null)).toBe(OVER);
      if (step > 0) expect(hintAfter(step, ["root"])).toBe(OVER);
    }
    expect(hintAfter(2, ["model"])).toBe(OVER);
  });

  it("do not care how the cells are drawn", () => {
    for (const step of [0, 1, 2])
      for (const what of ["labels", "density", "second"]) expect(hintAfter(step, [what])).toBe(step);
    expect(hintAfter(1, ["labels", "colour"])).toBe(2);
  });

  it("are over in every bench of a page at once", () => {
    const page = new EventTarget();
    const over: string[] = [];
    onOver(() => over.push("one"), page);
    const stop = onOver(() => over.push("other"), page);
    tellOver(page);
    expect(over).toEqual(["one", "other"]);
    stop();
    tellOver(page);
    expect(over).toEqual(["one", "other", "one"]);
  });
});

describe("what is done by hand", () => {
  const open: Store[] = [];
  afterEach(() => {
    for (const store of open.splice(0)) store.dispose();
  });

  function watched() {
    const behind = model();
    const store = new Store(behind as unknown as Model);
    open.push(store);
    const told: (readonly string[])[] = [];
    const stop = store.onAct((what) => told.push(what));
    return { behind, store, told, stop };
  }

  it("is told by what it sets; what Python sets is not", async () => {
    const { behind, store, told, stop } = watched();
    store.patch({ colour: { by: "gene", name: "LYZ" }, hidden: [] });
    store.patch({ model: store.state.model });
    store.setDoses({ CD3D: 0.5 }, false);
    store.setSelection(Uint8Array.of(1, 0, 0, 0));
    expect(told).toEqual([["colour"], ["model"], ["doses"], ["selection"]]);
    await tell(behind, { state: { ...store.state, model: "pca", panel: "scfm.run" } });
    expect(store.state.model).toBe("pca");
    expect(told.length).toBe(4);
    stop();
    store.patch({ labels: false });
    expect(told.length).toBe(4);
  });

  it("is not told where it is undone or done again: that goes no way of its own", () => {
    const { store, told } = watched();
    store.patch({ colour: { by: "gene", name: "LYZ" } });
    store.setSelection(Uint8Array.of(1, 0, 0, 0));
    store.setDoses({ CD3D: 0.5 }, true);
    const before = told.length;
    for (let i = 0; i < 3; i++) store.undo();
    expect([store.doses, store.state.colour?.name]).toEqual([{}, "cell_type"]);
    for (let i = 0; i < 3; i++) store.redo();
    expect(store.doses).toEqual({ CD3D: 0.5 });
    expect(told.length).toBe(before);
    store.patch({ hidden: ["B"] });
    expect(told.at(-1)).toEqual(["hidden"]);
  });

  it("is a dose only once one is turned", () => {
    const { store, told } = watched();
    store.setDoses({ CD3D: 1 }, true);
    expect(told).toEqual([]);
    store.setDoses({ CD3D: 0.9 }, false);
    expect(told).toEqual([["doses"]]);
  });

  it("is not what a plugin's panel sets", () => {
    const { store, told } = watched();
    const { session } = panelSession(store, "plugin");
    session.set("state", { colour: { by: "gene", name: "LYZ" } });
    session.set("doses", { CD3D: 0 });
    session.set("selection", [1, 0, 0, 0]);
    expect([store.state.colour?.name, store.doses, store.selection[0]]).toEqual(["LYZ", { CD3D: 0 }, 1]);
    expect(told).toEqual([]);
    store.patch({ hidden: ["B"] });
    expect(told).toEqual([["hidden"]]);
  });
});
