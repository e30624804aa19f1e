import { afterEach, describe, expect, it } from "vitest";
import { Superseded } from "../src/requests.ts";
import { clicked, escaped } from "../src/stage/clicks.ts";
import { Store } from "../src/store.ts";
import { View } from "../src/view.ts";
import { model, N } from "./bench.ts";

const open: Store[] = [];

function bench() {
  const behind = model();
  const store = new Store(behind as never);
  open.push(store);
  return { behind, store };
}

afterEach(() => {
  for (const store of open.splice(0)) store.dispose();
});

describe("two views of one bench", () => {
  it("have a dialog each", () => {
    const { store } = bench();
    const [one, other] = [new View(store, "scfm-1"), new View(store, "scfm-2")];
    let told = 0;
    other.onDialog(() => told++);
    one.open("code");
    expect([one.dialog, other.dialog, told]).toEqual(["code", null, 0]);
  });

  it("both get the answer to what both have asked; within one the newer question counts", async () => {
    const { store, behind } = bench();
    const sent: Record<string, unknown>[] = [];
    behind.send = (content) => sent.push(content);
    const [one, other] = [new View(store, "scfm-1"), new View(store, "scfm-2")];
    const older = one.question({ type: "gene", gene: "CD3D" }, "gene");
    const asked = [one, other].map((view) =>
      view.question<{ gene: string }>({ type: "gene", gene: "LYZ" }, "gene"),
    );
    await expect(older).rejects.toBeInstanceOf(Superseded);
    for (const { id } of sent.slice(1)) store.requests.answer({ id, gene: "LYZ" }, []);
    expect((await Promise.all(asked)).map(({ gene }) => gene)).toEqual(["LYZ", "LYZ"]);
  });
});

describe("a click beside the cells", () => {
  const some = Uint8Array.of(1, 0, 0, 0);

  it("clears the selection; with a key held, or meant to add, it does not", () => {
    const { store } = bench();
    store.setSelection(some);
    clicked(store, -1, "add");
    clicked(store, -1, "subtract");
    clicked(store, 2, "replace");
    expect([...store.selection]).toEqual([...some]);
    clicked(store, -1, "replace");
    expect([...store.selection]).toEqual(Array(N).fill(0));
  });

  it("picks no root, and one on a cell does", () => {
    const { store } = bench();
    store.setRooting(true);
    clicked(store, -1, "replace");
    expect(store.rooting).toBe(true);
    clicked(store, 2, "add");
    expect([store.rooting, store.state.root]).toEqual([false, { cell: 2 }]);
  });
});

describe("Escape", () => {
  it("leaves the picking of a root before it clears the selection", () => {
    const { store } = bench();
    store.setSelection(Uint8Array.of(1, 0, 0, 0));
    store.setRooting(true);
    escaped(store);
    expect([store.rooting, [...store.selection]]).toEqual([false, [1, 0, 0, 0]]);
    escaped(store);
    expect([...store.selection]).toEqual(Array(N).fill(0));
  });
});
