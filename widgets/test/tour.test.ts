import { afterEach, describe, expect, it } from "vitest";
import { type Model, Store } from "../src/store.ts";
import { HINTS, hintAfter } from "../src/tour.ts";
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
});

describe("what is done by hand", () => {
  const open: Store[] = [];
  afterEach(() => {
    for (const store of open.splice(0)) store.dispose();
  });

  it("is told by what it sets; what Python sets is not", async () => {
    const behind = model();
    const store = new Store(behind as unknown as Model);
    open.push(store);
    const told: (readonly string[])[] = [];
    const stop = store.onAct((what) => told.push(what));
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
});
