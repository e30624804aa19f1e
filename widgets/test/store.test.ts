import { afterEach, describe, expect, it, vi } from "vitest";
import { panelSession } from "../src/session.ts";
import { type Model, Store } from "../src/store.ts";
import { BEFORE, effect, model, perturbation, responses, tell } from "./bench.ts";

const open: Store[] = [];

function bench(more: Record<string, unknown> = {}) {
  const behind = model(more);
  const store = new Store(behind as unknown as Model);
  open.push(store);
  return { behind, store };
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 5));

afterEach(() => {
  for (const store of open.splice(0)) store.dispose();
});

describe("columns", () => {
  it("are asked for once, told of when they come, and kept", async () => {
    const { store, behind } = bench();
    let told = 0;
    let asked = 0;
    const send = behind.send.bind(behind);
    behind.send = (content) => {
      asked++;
      send(content);
    };
    store.on("columns", () => told++);
    const colour = { by: "obs", name: "cell_type" } as const;
    expect(store.column(colour)).toBeNull();
    expect(store.column(colour)).toBeNull();
    await settle();
    expect(Array.from(store.column(colour)!.codes)).toEqual([0, 1, 1, 255]);
    expect([asked, told]).toEqual([1, 1]);
  });

  it("that cannot be had say why", async () => {
    const { store } = bench();
    store.column({ by: "gene", name: "NOPE" });
    await settle();
    expect(store.columnFault({ by: "gene", name: "NOPE" })).toBe("This page does not hold NOPE.");
  });

  it("of results are asked for again when results change; those of obs stay", async () => {
    const { store, behind } = bench();
    const shift = { by: "result", name: "shift" } as const;
    const cellType = { by: "obs", name: "cell_type" } as const;
    store.column(shift);
    store.column(cellType);
    await settle();
    expect(store.column(shift)).not.toBeNull();
    await tell(behind, { _data_version: 2 });
    expect(store.column(shift)).toBeNull();
    expect(store.column(cellType)).not.toBeNull();
  });

  it("of whatever kind, and the names of genes, are asked for again when the cells are others than they were told", async () => {
    const { store, behind } = bench();
    const cellType = { by: "obs", name: "cell_type" } as const;
    store.column(cellType);
    store.genes = ["CD3D"];
    await settle();
    expect(store.column(cellType)).not.toBeNull();
    let told = 0;
    store.on("columns", () => told++);
    await tell(behind, { _cells_version: 2 });
    expect(told).toBe(1);
    expect(store.genes).toBeNull();
    expect(store.column(cellType)).toBeNull();
    await settle();
    expect(store.column(cellType)).not.toBeNull();
  });

  it("of results that could not be had are asked for again when results change; others are not", async () => {
    const { store, behind } = bench();
    const asked: string[] = [];
    const send = behind.send.bind(behind);
    behind.send = (content) => {
      asked.push(String(content.name));
      send(content);
    };
    const error = { by: "result", name: "error" } as const;
    const gene = { by: "gene", name: "NOPE" } as const;
    const look = () => [store.column(error), store.column(gene)];
    look();
    await settle();
    expect(store.columnFault(error)).toBe("This page does not hold error.");
    await tell(behind, { _data_version: 2 });
    expect(store.columnFault(error)).toBeNull();
    look();
    await settle();
    expect(asked).toEqual(["error", "NOPE", "error"]);
  });

  it("of results that were asked for before these results are not taken", async () => {
    const { store, behind } = bench();
    const shift = { by: "result", name: "shift" } as const;
    const waiting: (() => void)[] = [];
    const send = behind.send.bind(behind);
    behind.send = (content) => waiting.push(() => send(content));
    store.column(shift);
    await tell(behind, { _data_version: 2 });
    store.column(shift);
    waiting[0]();
    await settle();
    expect(store.column(shift)).toBeNull();
    waiting[1]();
    await settle();
    expect(store.column(shift)).not.toBeNull();
  });
});

describe("a kernel", () => {
  /** What has been sent, second by second; `answers` says what the kernel answers. */
  function watched(answers: (type: string) => boolean) {
    vi.useFakeTimers();
    const { store, behind } = bench();
    const sent: string[] = [];
    const send = behind.send.bind(behind);
    behind.send = (content) => {
      sent.push(String(content.type));
      if (answers(String(content.type))) send(content);
    };
    return { store, sent };
  }

  afterEach(() => {
    vi.useRealTimers();
  });

  it("that has a long answer to give is asked whether it is there, and is not said to be gone", async () => {
    const { store, sent } = watched((type) => type === "pulse");
    void store.act({ type: "plan" });
    await vi.advanceTimersByTimeAsync(1000);
    expect(sent).toEqual(["plan"]);
    await vi.advanceTimersByTimeAsync(9000);
    expect(sent.filter((type) => type === "pulse").length).toBeGreaterThan(1);
    expect(store.silence).toBe(0);
  });

  it("that answers nothing is silent from the first pulse on", async () => {
    const { store, sent } = watched(() => false);
    void store.act({ type: "plan" });
    await vi.advanceTimersByTimeAsync(9000);
    expect(sent.filter((type) => type === "pulse")).toHaveLength(1);
    expect(store.silence).toBeGreaterThan(4000);
  });

  it("that the host has lost is silent, although each question fails at once", async () => {
    const { store, sent } = watched(() => {
      throw new Error("Cannot send");
    });
    void store.act({ type: "plan" });
    await vi.advanceTimersByTimeAsync(12000);
    expect(sent.filter((type) => type === "pulse").length).toBeGreaterThan(1);
    expect(store.silence).toBeGreaterThan(4000);
  });

  it("that is there again is heard again", async () => {
    let there = false;
    const { store } = watched((type) => {
      if (!there) throw new Error("Cannot send");
      return type === "pulse";
    });
    void store.act({ type: "plan" });
    await vi.advanceTimersByTimeAsync(9000);
    there = true;
    await vi.advanceTimersByTimeAsync(4000);
    expect(store.silence).toBe(0);
  });

  it("that nobody asks anything is left alone", async () => {
    const { store, sent } = watched(() => true);
    await vi.advanceTimersByTimeAsync(9000);
    expect(sent).toEqual([]);
    expect(store.silence).toBe(0);
  });
});

describe("the small state", () => {
  it("is changed at once and told to the others", () => {
    const { store, behind } = bench();
    let told = 0;
    store.on("state", () => told++);
    store.patch({ hidden: ["B"] });
    expect(store.state.hidden).toEqual(["B"]);
    expect((behind.get("state") as { hidden: string[] }).hidden).toEqual(["B"]);
    expect(told).toBeGreaterThan(0);
  });

  it("follows Python", async () => {
    const { store, behind } = bench();
    await tell(behind, { state: { ...store.state, model: "pca" } });
    expect(store.state.model).toBe("pca");
  });

  describe("beside a kernel", () => {
    function live() {
      vi.useFakeTimers();
      const { store, behind } = bench({ _meta: { ...(model().get("_meta") as object), static: false } });
      const sent: Record<string, unknown>[] = [];
      behind.send = (content) => sent.push(content);
      const python = (change: object) =>
        tell(behind, { state: { ...(behind.get("state") as object), ...change } });
      return { store, sent, python };
    }

    afterEach(() => {
      vi.useRealTimers();
    });

    it("is told by what the hand has changed, and keeps what Python sets meanwhile", async () => {
      const { store, sent, python } = live();
      store.patch({ panel: "genes", labels: true });
      await python({ layout: "X_new" });
      expect([store.state.panel, store.state.layout]).toEqual(["genes", "X_new"]);
      await vi.advanceTimersByTimeAsync(1000);
      expect(sent.map(({ type, change }) => [type, change])).toEqual([["state", { panel: "genes" }]]);
      // What Python said before it was told pulls nothing back; once it has answered, it is followed.
      await python({ hidden: ["B"] });
      expect([store.state.panel, store.state.hidden]).toEqual(["genes", ["B"]]);
      store.requests.answer({ id: sent[0].id }, []);
      await python({ panel: "genes" });
      await vi.advanceTimersByTimeAsync(10);
      expect(store.state.panel).toBe("genes");
      await python({ panel: "run" });
      expect(store.state.panel).toBe("run");
    });

    it("goes back where Python refuses, and stays where nobody could be told", async () => {
      const { store, sent } = live();
      store.patch({ groupby: "clone" });
      await vi.advanceTimersByTimeAsync(1000);
      store.requests.answer({ id: sent[0].id, error: "It has 300 groups." }, []);
      await vi.advanceTimersByTimeAsync(10);
      expect(store.state.groupby).toBe("cell_type");
      const { store: alone } = live();
      alone.model.send = () => {
        throw new Error("Kernel is dead");
      };
      alone.patch({ labels: false });
      await vi.advanceTimersByTimeAsync(1000);
      expect(alone.state.labels).toBe(false);
    });

    it("is told before anything is asked", () => {
      const { store, sent } = live();
      store.patch({ gene: "LYZ" });
      void store.act({ type: "gene", gene: "LYZ" });
      expect(sent.map(({ type }) => type)).toEqual(["state", "gene"]);
    });
  });
});

describe("a selection", () => {
  it("goes to Python as bits and comes back as it was", async () => {
    const { store, behind } = bench();
    store.setSelection(Uint8Array.of(0, 1, 0, 1));
    expect((behind.get("_selection") as DataView).getUint8(0)).toBe(0b1010);
    await tell(behind, { _selection: new DataView(Uint8Array.of(0b0001).buffer) });
    expect(Array.from(store.selection)).toEqual([1, 0, 0, 0]);
  });
});

describe("doses", () => {
  it("are shown at once, marked until the answer is here, and answered", async () => {
    const { store } = bench();
    store.setDoses({ CD3D: 0 }, true);
    expect(store.doses).toEqual({ CD3D: 0 });
    expect(store.computing).toBe(true);
    await settle();
    expect(store.computing).toBe(false);
    expect(store.positions("after")![2]).toBe(60);
  });

  it("give a plugin's panel the places as they are drawn on the way, and none where a cell has none", async () => {
    const { store } = bench();
    store.setDoses({ CD3D: 0 }, true);
    await settle();
    store.setT(0.5);
    const { session } = panelSession(store, "plugin");
    const places = session.get("positions") as Float32Array;
    expect(places[2]).toBeCloseTo(80 / 65535, 9);
    expect(Array.from(places.slice(6))).toEqual([Number.NaN, Number.NaN]);
  });

  it("that a slider passes over are not pulled back by an older answer", async () => {
    const { store, behind } = bench();
    store.setDoses({ CD3D: 0.5 }, false);
    await tell(behind, { doses: { CD3D: 1 } });
    expect(store.doses).toEqual({ CD3D: 0.5 });
  });

  it("that Python refuses are not waited for", async () => {
    const { store, behind } = bench();
    behind.send = () => {};
    store.setDoses({ NOPE: 0 }, true);
    expect(store.computing).toBe(true);
    await tell(behind, { _refused: { NOPE: 0 } });
    expect(store.computing).toBe(false);
    store.setDoses({ NOPE: 1, CD3D: 0 }, true);
    expect(store.computing).toBe(true);
  });

  it("without an answer leave what is shown marked as of other doses", async () => {
    const shown = perturbation("CD3D", 0, [effect("CD3D", "all", 4, { verdict: "stronger than all" })]);
    const { store, behind } = bench({ _perturbation: shown, doses: { CD3D: 0 } });
    behind.send = () => {};
    expect([store.outdated, store.refused]).toEqual([false, false]);
    store.setDoses({ CD3D: 0.5 }, true);
    expect([store.computing, store.outdated, store.refused]).toEqual([true, true, false]);
    await tell(behind, { _refused: { CD3D: 0.5 } });
    expect([store.computing, store.outdated, store.refused]).toEqual([false, true, true]);
    expect(store.shown).toEqual(shown);
    // Back at the doses that are shown nothing is missing.
    store.setDoses({ CD3D: 0 }, true);
    expect([store.computing, store.outdated, store.refused]).toEqual([false, false, false]);
  });

  it("that Python sets are taken over", async () => {
    const { store, behind } = bench();
    await tell(behind, { doses: { LYZ: 2 } });
    expect(store.doses).toEqual({ LYZ: 2 });
  });
});

describe("a response curve", () => {
  const curve = responses("CD3D");
  const places = new Uint8Array(curve.length * BEFORE.byteLength);
  const points = curve.map(({ dose, perturbation: effects, after }, k) => {
    places.set(new Uint8Array(after.buffer), k * BEFORE.byteLength);
    return { dose, perturbation: effects, offset: k * BEFORE.byteLength, length: BEFORE.byteLength };
  });
  const traits = {
    _curves: [{ gene: "CD3D", points }],
    _curve_places: new DataView(places.buffer),
  };

  it("answers while the slider moves, without asking, and stays marked", () => {
    const { store, behind } = bench(traits);
    let asked = 0;
    behind.send = () => asked++;
    store.setDoses({ CD3D: 0.5 }, false);
    expect(store.positions("after")![2]).toBe(80);
    expect(store.shown!.rows[0].effect).toBe(2);
    expect(store.computing).toBe(true);
    expect(asked).toBe(0);
  });

  it("says nothing of doses beyond those that have been computed so far", () => {
    const half = { ...traits, _curves: [{ gene: "CD3D", points: points.slice(0, 2) }] };
    const { store } = bench(half);
    store.setDoses({ CD3D: 1.5 }, false);
    expect(store.positions("after")).toBeNull();
    store.setDoses({ CD3D: 0.5 }, false);
    expect(store.positions("after")![2]).toBe(80);
  });

  it("gives way to the exact answer", async () => {
    const { store, behind } = bench(traits);
    store.setDoses({ CD3D: 0.5 }, false);
    await tell(behind, { _perturbation: perturbation("CD3D", 0.5, [effect("CD3D", "all", 3)]) });
    expect(store.shown!.rows[0].effect).toBe(3);
    expect(store.computing).toBe(false);
  });

  it("is not pulled away by an exact answer to older doses", async () => {
    const { store, behind } = bench(traits);
    store.setDoses({ CD3D: 0.5 }, false);
    await tell(behind, { _perturbation: perturbation("CD3D", 0.9, [effect("CD3D", "all", 9)]) });
    expect(store.shown!.rows[0].effect).toBe(2);
  });

  it("goes with the plane or the model that it was of", async () => {
    const { store, behind } = bench(traits);
    store.setDoses({ CD3D: 0.5 }, false);
    expect(store.positions("after")![2]).toBe(80);
    await tell(behind, { _curve_places: new DataView(new ArrayBuffer(0)), _curves: [] });
    expect(store.positions("after")).toBeNull();
    expect(store.shown).toBeNull();
    let asked = 0;
    behind.send = () => asked++;
    store.setDoses({ CD3D: 0.6 }, false);
    expect(store.positions("after")).toBeNull();
    expect(asked).toBe(1);
  });

  it("is no answer where the model refuses", async () => {
    const { store, behind } = bench(traits);
    behind.send = () => {};
    store.setDoses({ CD3D: 0.5 }, true);
    expect(store.shown).not.toBeNull();
    await tell(behind, { _refused: { CD3D: 0.5 } });
    expect(store.shown).toBeNull();
    expect(store.computing).toBe(false);
  });

  it("is not used where another gene that turns has none", () => {
    const { store } = bench(traits);
    store.setDoses({ LYZ: 0, CD3D: 0.5 }, false);
    expect(store.positions("after")).toBeNull();
  });

  it("shows the cells as they are at once when everything goes back to 1", async () => {
    const { store, behind } = bench(traits);
    await tell(behind, { _perturbation: perturbation("CD3D", 0, []) });
    store.setDoses({ CD3D: 1 }, false);
    expect(store.shown).toBeNull();
    expect(store.positions("after")).toBeNull();
  });
});

describe("what a panel keeps", () => {
  it("is there again when it is opened again, and the other views are told", () => {
    const { store } = bench();
    let told = 0;
    store.on("kept", () => told++);
    expect(store.kept<string[]>("trends.genes", [])).toEqual([]);
    store.keep("trends.genes", ["LYZ"]);
    expect([store.kept("trends.genes", []), told]).toEqual([["LYZ"], 1]);
    store.keep("attention", null);
    expect(store.kept<string | null>("attention", "asking")).toBeNull();
  });
});

describe("a message that was dismissed", () => {
  it("is gone here even where no kernel answers", () => {
    const { store } = bench({ _errors: [{ id: 3, text: "No.", where: "" }] });
    store.dismiss(3);
    expect(store.dismissed.has(3)).toBe(true);
  });
});

describe("a store that is taken away", () => {
  it("listens no longer", async () => {
    const { store, behind } = bench();
    let told = 0;
    store.on("doses", () => told++);
    store.dispose();
    await tell(behind, { doses: { CD3D: 0 } });
    expect(told).toBe(0);
  });
});
