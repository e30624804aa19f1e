import { afterEach, describe, expect, it, vi } from "vitest";
import { unpackBits } from "../src/codec.ts";
import { panelSession } from "../src/session.ts";
import { type Model, Store } from "../src/store.ts";
import { BEFORE, model, N, perturbation, responses, tell } from "./bench.ts";

const open: Store[] = [];

afterEach(() => {
  vi.useRealTimers();
  for (const store of open.splice(0)) store.dispose();
});

/**
 * A bench beside a kernel that takes messages one after the other and answers each of what it knows by then. As ipywidgets does,
 * it gets no changed trait while it has not answered the last one.
 */
function live(more: Record<string, unknown> = {}) {
  const behind = model({ _meta: { ...(model().get("_meta") as object), static: false }, ...more });
  const store = new Store(behind as unknown as Model);
  open.push(store);
  const knows = { state: { ...store.state }, doses: {}, selection: [0, 0, 0, 0] };
  const asked: string[] = [];
  behind.save_changes = () => {};
  behind.send = async (content: Record<string, unknown>) => {
    asked.push(String(content.type));
    const reply = content.type === "panel" ? structuredClone(knows) : {};
    const told: Record<string, unknown> = {};
    if (content.type === "perturb") knows.doses = content.doses as object;
    if (content.commit) told.doses = { ...knows.doses };
    if (content.type === "state") {
      Object.assign(knows.state, content.change);
      told.state = { ...knows.state };
    }
    if (content.type === "selection") {
      const bits = Uint8Array.from(atob(content.bits as string), (char) => char.charCodeAt(0));
      knows.selection = [...unpackBits(bits, N)];
      told._selection = new DataView(bits.buffer);
    }
    await tell(behind, told);
    store.requests.answer({ ...reply, id: content.id }, []);
  };
  return { behind, store, knows, asked };
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 10));

describe("a panel that asks whenever something changes", () => {
  const changes = {
    selection: [Uint8Array.of(0, 1, 1, 0), [0, 1, 1, 0]],
    doses: [{ CD3D: 0 }, { CD3D: 0 }],
    state: [{ hidden: ["B"] }, expect.objectContaining({ hidden: ["B"] })],
  } as const;

  it.each(["selection", "doses", "state"] as const)("is answered of the present %s", async (name) => {
    const { store } = live();
    const { session } = panelSession(store, "plugin");
    const answers: unknown[] = [];
    session.on(name, () => {
      void session.send({}).then(({ content }) => answers.push(content[name]));
    });
    const [given, wanted] = changes[name];
    session.set(name, given);
    await settle();
    expect(answers.length).toBeGreaterThan(0);
    for (const answer of answers) expect(answer).toEqual(wanted);
  });

  it("is answered of all that an undo brings back, whatever it listens to", async () => {
    const { store } = live();
    store.history.hold(() => store.setSelection(Uint8Array.of(1, 0, 0, 0)));
    store.patch({ hidden: ["T"] });
    await settle();
    const { session } = panelSession(store, "plugin");
    const answers: object[] = [];
    session.on("selection", () => {
      void session.send({}).then(({ content }) => answers.push(content));
    });
    store.undo();
    await settle();
    expect(answers).toMatchObject([{ selection: [0, 0, 0, 0], state: { hidden: [] } }]);
  });
});

describe("a question of a panel", () => {
  it("is rejected where its job was stopped, or a newer one has taken its place", async () => {
    const { store, behind } = live();
    behind.send = (content) =>
      queueMicrotask(() => store.requests.answer({ id: content.id, cancelled: true }, []));
    const { session } = panelSession(store, "plugin");
    await expect(session.send({ of: "selection" })).rejects.toThrow("Stopped.");
  });
});

describe("what is set by hand", () => {
  it("is told at once where somebody leaves the bench", async () => {
    const { store, asked, knows } = live();
    store.patch({ hidden: ["T"] });
    expect(asked).toEqual([]);
    store.flush();
    store.flush();
    expect(asked).toEqual(["state"]);
    await settle();
    expect(knows.state.hidden).toEqual(["T"]);
  });
});

describe("a selection beside a kernel", () => {
  it("comes before what is asked about it", () => {
    const { store, asked } = live();
    store.setSelection(Uint8Array.of(0, 1, 1, 0));
    void store.act({ type: "screen", selected: true });
    store.setSelection(Uint8Array.of(1, 1, 1, 1));
    void store.act({ type: "code" });
    expect(asked).toEqual(["selection", "screen", "selection", "code"]);
  });

  it("is not taken back by what Python said before it was told, and is when it has answered", async () => {
    const { store, behind } = live();
    const bits = (byte: number) => ({ _selection: new DataView(Uint8Array.of(byte).buffer) });
    const held: Record<string, unknown>[] = [];
    behind.send = (content) => held.push(content);
    store.setSelection(Uint8Array.of(0, 1, 1, 0));
    await tell(behind, bits(0b1000));
    expect([...store.selection]).toEqual([0, 1, 1, 0]);
    await tell(behind, bits(0b0110));
    for (const { id } of held) store.requests.answer({ id }, []);
    await settle();
    expect([...store.selection]).toEqual([0, 1, 1, 0]);
    await tell(behind, bits(0b0001));
    expect([...store.selection]).toEqual([1, 0, 0, 0]);
    // And that was one step each.
    store.undo();
    expect([...store.selection]).toEqual([0, 1, 1, 0]);
  });

  it("is the one that Python has, where both set one at the same time", async () => {
    const { store, behind } = live();
    const held: Record<string, unknown>[] = [];
    behind.send = (content) => held.push(content);
    store.setSelection(Uint8Array.of(0, 1, 1, 0));
    // Python took the browser's and then set its own, and says so before the answer is here.
    for (const bits of [0b0110, 0b1000])
      await tell(behind, { _selection: new DataView(Uint8Array.of(bits).buffer) });
    expect([...store.selection]).toEqual([0, 1, 1, 0]);
    for (const { id } of held) store.requests.answer({ id }, []);
    await settle();
    expect([...store.selection]).toEqual([0, 0, 0, 1]);
  });
});

describe("a host that sets the traits of one message one after the other", () => {
  const curve = responses("CD3D");
  const places = new Uint8Array(curve.length * BEFORE.byteLength);
  const points = curve.map(({ dose, perturbation: effects, after }, k) => {
    places.set(new Uint8Array(after.buffer), k * BEFORE.byteLength);
    return { dose, perturbation: effects, offset: k * BEFORE.byteLength, length: BEFORE.byteLength };
  });

  it("gives response curves, whichever of their traits comes first", async () => {
    const told = { _curves: [{ gene: "CD3D", points }], _curve_places: new DataView(places.buffer) };
    for (const names of [Object.keys(told), Object.keys(told).reverse()]) {
      const { store, behind } = live();
      await tell(behind, Object.fromEntries(names.map((name) => [name, told[name as keyof typeof told]])));
      store.setDoses({ CD3D: 0.5 }, false);
      expect(store.positions("after")![2]).toBe(80);
    }
  });

  it("gives places that belong to their description, also to whoever looks at once", async () => {
    const { store, behind } = live();
    const { session } = panelSession(store, "plugin");
    const seen: number[][] = [];
    session.on("positions", () => seen.push([...(session.get("positions") as Float32Array).slice(2, 4)]));
    const at = async (x: number, version: number) => {
      const after = BEFORE.slice();
      after[2] = x;
      // Bytes come last.
      await tell(behind, {
        _after_info: { dtype: "uint16", n: 2 * N, version },
        _perturbation: perturbation("CD3D", 0, []),
        _after: new DataView(after.buffer),
      });
    };
    await at(300, 5);
    await at(600, 6);
    expect(store.positions("after")![2]).toBe(600);
    expect(seen.every(([x]) => Math.abs(x - 300 / 65535) < 1e-6 || Math.abs(x - 600 / 65535) < 1e-6)).toBe(
      true,
    );
    expect(seen.at(-1)![0]).toBeCloseTo(600 / 65535, 6);
  });
});

describe("a kernel that waits for its own work", () => {
  it("is heard as long as it tells how far that is, and silent when it does no more", async () => {
    vi.useFakeTimers();
    const { store, behind } = live();
    behind.send = () => {};
    const job = { id: 1, kind: "embed", label: "Running", status: "running", total: 100, note: "" };
    for (let done = 0; done < 12; done++) {
      await tell(behind, { _job: { ...job, done } });
      await vi.advanceTimersByTimeAsync(1000);
      expect(store.silence).toBeLessThan(2000);
    }
    await vi.advanceTimersByTimeAsync(6000);
    expect(store.silence).toBeGreaterThan(4000);
  });
});

describe("undo beside a kernel", () => {
  /** Python refuses one colour. */
  function refusing() {
    const bench = live();
    const { behind, store } = bench;
    const answer = behind.send.bind(behind);
    let gone = false;
    behind.send = (content) => {
      const change = content.change as { colour?: { name: string } } | undefined;
      if (gone && change?.colour?.name === "tmp") {
        queueMicrotask(() => store.requests.answer({ id: content.id, error: "obs has no 'tmp'." }, []));
        return;
      }
      answer(content);
    };
    return {
      ...bench,
      lose: () => {
        gone = true;
      },
    };
  }

  it("goes past a step that Python refuses, back and forth", async () => {
    vi.useFakeTimers();
    const { store, lose } = refusing();
    const first = store.state.colour;
    for (const name of ["tmp", "other"]) {
      store.patch({ colour: { by: "obs", name } });
      await vi.advanceTimersByTimeAsync(300);
    }
    lose();
    store.undo();
    await vi.advanceTimersByTimeAsync(300);
    expect(store.state.colour?.name).toBe("other");
    store.undo();
    await vi.advanceTimersByTimeAsync(300);
    expect(store.state.colour).toEqual(first);
    expect(store.history.canUndo).toBe(false);
    store.redo();
    await vi.advanceTimersByTimeAsync(300);
    expect(store.state.colour?.name).toBe("other");
    expect(store.history.canRedo).toBe(false);
  });

  it("has no step for what was refused when it was done", async () => {
    vi.useFakeTimers();
    const { store, lose } = refusing();
    lose();
    store.patch({ labels: false });
    await vi.advanceTimersByTimeAsync(300);
    store.patch({ colour: { by: "obs", name: "tmp" } });
    await vi.advanceTimersByTimeAsync(300);
    expect(store.state.colour?.name).toBe("cell_type");
    store.undo();
    await vi.advanceTimersByTimeAsync(300);
    expect(store.state.labels).toBe(true);
    expect(store.history.canUndo).toBe(false);
  });

  it("has no step for a dose that a slider passes over while something else is set", async () => {
    const { store, behind } = live();
    store.setDoses({ CD3D: 0.5 }, false);
    await tell(behind, { _selection: new DataView(Uint8Array.of(0b0010).buffer) });
    store.setDoses({ CD3D: 0 }, true);
    await settle();
    store.undo();
    expect(store.doses).toEqual({});
    expect([...store.selection]).toEqual([0, 1, 0, 0]);
  });

  it("has no step for doses of before that a host still holds when it hands on the answer", async () => {
    const { store, behind } = live({ doses: { CD3D: 1 } });
    behind.send = async (content: Record<string, unknown>) => {
      store.requests.answer({ id: content.id }, []);
      for (let turn = 0; turn < 9; turn++) await null;
      await tell(behind, { doses: content.doses });
    };
    const seen: unknown[] = [];
    store.on("doses", () => seen.push(store.doses.CD3D));
    store.setDoses({ CD3D: 0 }, true);
    await settle();
    expect(new Set(seen)).toEqual(new Set([0]));
    store.undo();
    expect(store.doses).toEqual({ CD3D: 1 });
  });

  it("does not go back before the first plane", async () => {
    const { store, behind } = live();
    store.patch({ labels: false });
    await tell(behind, { state: { ...store.state, layout: "X_umap_starter" } });
    store.undo();
    expect([store.state.labels, store.state.layout]).toEqual([true, "X_umap_starter"]);
    expect(store.history.canUndo).toBe(false);
    // Of two planes the other one is gone back to.
    await tell(behind, { state: { ...store.state, layout: "X_umap_pca" } });
    store.undo();
    expect(store.state.layout).toBe("X_umap_starter");
  });

  it("keeps a bit of each cell for a step", () => {
    const { store } = live();
    store.setSelection(Uint8Array.of(0, 1, 1, 0));
    store.setSelection(Uint8Array.of(1, 1, 1, 1));
    expect([...store.history.back()!.selection]).toEqual([0b0110]);
  });
});
