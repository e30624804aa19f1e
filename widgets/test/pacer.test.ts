import { describe, expect, it } from "vitest";
import { DosePacer } from "../src/pacer.ts";
import type { Doses } from "../src/reducers.ts";

/** A kernel that answers when told to. */
function kernel() {
  const asked: { doses: Doses; commit: boolean; answer: () => void; refuse: () => void }[] = [];
  const pacer = new DosePacer(
    (doses, commit) =>
      new Promise((resolve, reject) => {
        asked.push({ doses, commit, answer: resolve, refuse: () => reject(new Error("no")) });
      }),
  );
  return { asked, pacer };
}

const settle = () => new Promise((resolve) => setTimeout(resolve, 0));

describe("a slider that moves faster than the kernel answers", () => {
  it("has one question under way, and the next one is about where it is by then", async () => {
    const { asked, pacer } = kernel();
    for (const dose of [0.9, 0.8, 0.7, 0.6]) pacer.move({ A: dose }, false);
    expect(asked.map(({ doses }) => doses)).toEqual([{ A: 0.9 }]);
    asked[0].answer();
    await settle();
    expect(asked.map(({ doses }) => doses)).toEqual([{ A: 0.9 }, { A: 0.6 }]);
  });

  it("asks for its resting place at once", () => {
    const { asked, pacer } = kernel();
    pacer.move({ A: 0.9 }, false);
    pacer.move({ A: 0.2 }, true);
    expect(asked.map(({ doses, commit }) => [doses.A, commit])).toEqual([
      [0.9, false],
      [0.2, true],
    ]);
  });

  it("asks for nothing more once it rests", async () => {
    const { asked, pacer } = kernel();
    pacer.move({ A: 0.9 }, false);
    pacer.move({ A: 0.2 }, true);
    for (const { answer } of [...asked]) answer();
    await settle();
    expect(asked).toHaveLength(2);
    expect(pacer.busy).toBe(false);
  });

  it("asks only when it rests where a response curve answers meanwhile", async () => {
    const { asked, pacer } = kernel();
    pacer.move({ A: 0.9 }, false, false);
    pacer.move({ A: 0.4 }, false, false);
    expect(asked).toHaveLength(0);
    expect(pacer.busy).toBe(true);
    pacer.move({ A: 0.4 }, true, false);
    expect(asked.map(({ doses }) => doses.A)).toEqual([0.4]);
  });

  it("does not ask twice for the same place while it is held there", async () => {
    const { asked, pacer } = kernel();
    pacer.move({ A: 0.5 }, false);
    asked[0].answer();
    await settle();
    pacer.move({ A: 0.5 }, false);
    expect(asked).toHaveLength(1);
  });
});

describe("a kernel that refuses", () => {
  it("does not stop the slider", async () => {
    const { asked, pacer } = kernel();
    pacer.move({ NOPE: 0 }, true);
    asked[0].refuse();
    await settle();
    expect(pacer.busy).toBe(false);
    pacer.move({ A: 0 }, false);
    expect(asked).toHaveLength(2);
  });
});

describe("when everything has been answered", () => {
  it("it says so once", async () => {
    const { asked, pacer } = kernel();
    let settled = 0;
    pacer.onSettled(() => settled++);
    pacer.move({ A: 0.9 }, false);
    pacer.move({ A: 0.2 }, true);
    asked[1].answer();
    await settle();
    expect(settled).toBe(0);
    asked[0].answer();
    await settle();
    expect(settled).toBe(1);
  });
});
