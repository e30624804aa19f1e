import { describe, expect, it } from "vitest";
import { barRange, readGenes } from "../src/genes.ts";
import {
  anyChange,
  besideNull,
  canPerturb,
  changeWords,
  colourBeside,
  columnShown,
  combine,
  combineMode,
  countOnes,
  dosesWords,
  doseWords,
  groupingOf,
  hasLevels,
  hiddenCodes,
  isBusy,
  isDistinct,
  isPicked,
  keyedDose,
  matchParts,
  mostLost,
  nearest,
  noGroups,
  notFound,
  rootIn,
  sameDoses,
  snapDose,
  soloHidden,
  spokenJob,
  testedOf,
  toggleHidden,
  typeAhead,
  verdictWords,
  withDose,
  without,
  withoutGene,
} from "../src/reducers.ts";
import { effect } from "./bench.ts";

describe("what colours the cells", () => {
  const [shift, next] = [{ codes: Uint8Array.of(1, 2) }, { codes: Uint8Array.of(3, 4) }];

  it("stays until the next column is here, and goes where none is to come", () => {
    expect(columnShown(next, shift, true)).toBe(next);
    expect(columnShown(null, shift, true)).toBe(shift);
    expect(columnShown(null, shift, false)).toBeNull();
  });

  it("is no value where another plane's cannot be had", () => {
    expect([...without(shift)!.codes]).toEqual([255, 255]);
    expect(without(null)).toBeNull();
  });
});

describe("the plane beside the first", () => {
  const order = { by: "result", name: "pseudotime" };

  it("has the twin's own order where it is the twin's plane", () => {
    expect(colourBeside(order, "twin")).toEqual({ by: "result", name: "twin" });
    expect(colourBeside(order, "pca:X_starter")).toBe(order);
    const gene = { by: "gene", name: "pseudotime" };
    expect(colourBeside(gene, "twin")).toBe(gene);
    expect(colourBeside(null, "twin")).toBeNull();
  });
});

describe("groups", () => {
  const columns = [
    { name: "donor", groups: true },
    { name: "clone", groups: false },
  ];

  it("are those of the column that is asked for, where it has any", () => {
    expect(groupingOf(columns, "donor")).toBe("donor");
    expect(groupingOf(columns, "clone")).toBeNull();
    expect(groupingOf(columns, "gone")).toBeNull();
    expect(groupingOf(columns, null)).toBeNull();
  });

  it("say why a column has none", () => {
    const gaps = [{ name: "donor" }, { name: "cell_type", why: "1 cell has no value" }];
    expect(noGroups(gaps, "cell_type")).toBe("No groups of cell_type: 1 cell has no value.");
    expect([noGroups(gaps, "donor"), noGroups(gaps, "gone"), noGroups(gaps, null)]).toEqual(["", "", ""]);
  });

  it("of which least is seen stand first", () => {
    const rows = [
      { group: "0", lost: 0.1 },
      { group: "1", lost: null },
      { group: "2", lost: 0.7 },
      { group: "10", lost: 0.1 },
    ];
    expect(mostLost(rows).map(({ group }) => group)).toEqual(["2", "0", "10", "1"]);
  });

  it("below and above nothing have bars from there", () => {
    expect(barRange([2, 4, null])).toEqual({ low: 0, high: 4 });
    expect(barRange([-1, 3])).toEqual({ low: -1, high: 3 });
    expect(barRange([-2, -1])).toEqual({ low: -2, high: 0 });
    expect(barRange([0]).high).toBeGreaterThan(0);
  });

  it("hold the root, or it is a cell", () => {
    expect(rootIn(["A"], { group: "A" })).toEqual({ group: "A" });
    expect(rootIn(["A"], { group: "B" })).toBeNull();
    expect(rootIn([], { cell: 0 })).toEqual({ cell: 0 });
    expect(rootIn(["A"], null)).toBeNull();
  });
});

describe("doses", () => {
  it("are told in words, those that change something", () => {
    expect(dosesWords({ CD3D: 0, LYZ: 1, GNLY: 2 })).toBe("CD3D knocked out, GNLY 2 × its counts");
    expect(dosesWords({})).toBe("");
  });

  it.each([
    [0.04, 0],
    [0.07, 0.05],
    [0.96, 1],
    [1.05, 1],
    [1.07, 1.05],
    [1.97, 2],
    [0.523, 0.5],
    [-3, 0],
    [9, 2],
  ])("a slider at %f means %f", (position, dose) => {
    expect(snapDose(position)).toBe(dose);
  });

  it("go by keys in steps, past the doses that catch a slider, and no further than they reach", () => {
    let dose = 1;
    for (let press = 0; press < 20; press++) dose = keyedDose("ArrowLeft", dose)!;
    expect(dose).toBe(0);
    expect([keyedDose("ArrowDown", 0), keyedDose("PageUp", 1.9), keyedDose("End", 0)]).toEqual([0, 2, 2]);
    expect(keyedDose("z", 1)).toBeNull();
  });

  it("a slider that says nothing means unchanged", () => {
    expect(snapDose(Number.NaN)).toBe(1);
  });

  it("every step of the slider is a number without a tail", () => {
    for (let i = 0; i <= 200; i++) expect(String(snapDose(i / 100)).length).toBeLessThanOrEqual(4);
  });

  it("a gene at 1 counts as absent", () => {
    expect(sameDoses({ A: 0, B: 1 }, { A: 0 })).toBe(true);
    expect(sameDoses({ A: 0 }, { A: 0.5 })).toBe(false);
    expect(sameDoses({ A: 0 }, { B: 0 })).toBe(false);
    expect(sameDoses(undefined, { A: 1 })).toBe(true);
    expect(anyChange({ A: 1 })).toBe(false);
    expect(anyChange({ A: 1, B: 2 })).toBe(true);
  });

  it("are changed without touching what was there", () => {
    const before = Object.freeze({ A: 1 });
    expect(withDose(before, "B", 0)).toEqual({ A: 1, B: 0 });
    expect(withoutGene({ A: 1, B: 0 }, "A")).toEqual({ B: 0 });
  });

  it("of genes with hostile names stay plain entries", () => {
    const doses = withDose({}, "__proto__x", 0);
    expect(sameDoses(withDose(doses, "<img src=x>", 2), { __proto__x: 0, "<img src=x>": 2 })).toBe(true);
  });

  it("are told in words", () => {
    expect([0, 0.5, 1, 1.5, 2].map(doseWords)).toEqual([
      "knocked out",
      "50 % of its counts",
      "unchanged",
      "1.5 × its counts",
      "2 × its counts",
    ]);
  });
});

describe("legend", () => {
  const labels = ["B", "NK", "T"];

  it("hides and shows a group", () => {
    expect(toggleHidden([], "NK")).toEqual(["NK"]);
    expect(toggleHidden(["B", "NK"], "NK")).toEqual(["B"]);
  });

  it("shows one group alone, and all again", () => {
    expect(soloHidden([], "NK", labels)).toEqual(["B", "T"]);
    expect(soloHidden(["B", "T"], "NK", labels)).toEqual([]);
    expect(soloHidden(["NK"], "NK", labels)).toEqual(["B", "T"]);
  });

  it("gives a flag per code", () => {
    const flags = hiddenCodes(["T", "gone"], labels);
    expect(Array.from(flags.subarray(0, 4))).toEqual([0, 0, 1, 0]);
  });
});

describe("selection", () => {
  const before = Uint8Array.of(1, 1, 0, 0);
  const drawn = Uint8Array.of(0, 1, 1, 0);

  it.each([
    ["replace", [0, 1, 1, 0]],
    ["add", [1, 1, 1, 0]],
    ["subtract", [1, 0, 0, 0]],
  ] as const)("%s", (mode, expected) => {
    expect(Array.from(combine(before, drawn, mode))).toEqual(expected);
    expect(Array.from(before)).toEqual([1, 1, 0, 0]);
  });

  it("of another number of cells is replaced", () => {
    expect(Array.from(combine(Uint8Array.of(1), drawn, "add"))).toEqual([0, 1, 1, 0]);
  });

  it("combines by the keys that are held", () => {
    expect(combineMode({ shiftKey: false, altKey: false })).toBe("replace");
    expect(combineMode({ shiftKey: true, altKey: false })).toBe("add");
    expect(combineMode({ shiftKey: true, altKey: true })).toBe("subtract");
  });

  it("is counted", () => {
    expect(countOnes(drawn)).toBe(2);
  });
});

describe("type-ahead", () => {
  const genes = ["ACD3", "CD3D", "CD3E", "CD34", "cd3", "MS4A1", "CD3G"];

  it("puts the name itself first, then what begins with it, then what holds it", () => {
    expect(typeAhead(genes, "cd3", 10)).toEqual(["cd3", "CD34", "CD3D", "CD3E", "CD3G", "ACD3"]);
  });

  it("gives no more than asked for, and everything in its order for nothing typed", () => {
    expect(typeAhead(genes, "cd3", 2)).toEqual(["cd3", "CD34"]);
    expect(typeAhead(genes, "  ", 2)).toEqual(["ACD3", "CD3D"]);
  });

  it("finds a gene by its symbol and by its id", () => {
    const ids = ["ENSG1", "ENSG2", "ENSG3"];
    const symbols = new Map([
      ["ENSG2", "CD3D"],
      ["ENSG3", "ACD3"],
    ]);
    expect(typeAhead(ids, "cd3", 5, symbols)).toEqual(["ENSG2", "ENSG3"]);
    expect(typeAhead(ids, "ensg1", 5, symbols)).toEqual(["ENSG1"]);
    expect(typeAhead(ids, "g2", 5, symbols)).toEqual(["ENSG2"]);
    const { names, symbols: read } = readGenes("ENSG1\t\nENSG2\tCD3D\nodd\tname\tX", true);
    expect(names).toEqual(["ENSG1", "ENSG2", "odd\tname"]);
    expect([...read]).toEqual([
      ["ENSG2", "CD3D"],
      ["odd\tname", "X"],
    ]);
    expect(readGenes("CD3D\nLYZ", false).names).toEqual(["CD3D", "LYZ"]);
  });

  it("takes what is typed as text, not as a pattern", () => {
    expect(typeAhead(["HLA-DRA", "A.B", "AxB"], "a.b", 5)).toEqual(["A.B"]);
    expect(typeAhead(genes, "(", 5)).toEqual([]);
  });

  it("finds what was meant by somebody who mistyped", () => {
    const names = ["CD3D", "CD3E", "CD3G", "CD34", "CD37", "LYZ", "cell_type", "MS4A1"];
    expect(nearest(names, "CD3X")).toEqual(["CD3D", "CD3E", "CD3G"]);
    expect(nearest(names, " cd33d")).toEqual(["CD3D"]);
    expect(nearest(names, "celltype")).toEqual(["cell_type"]);
    expect(nearest(names, "MS4A")).toEqual(["MS4A1"]);
    expect(nearest(names, "LZY", 1)).toEqual([]);
    expect(nearest(names, "c")).toEqual([]);
    expect(nearest(names, "(((")).toEqual([]);
  });

  it("says in plain words that nothing matches", () => {
    expect(notFound("gene", ["CD3D", "CD3E", "CD3G", "LYZ"], "CD3X ")).toBe(
      "No gene name contains “CD3X”. Did you mean CD3D, CD3E or CD3G?",
    );
    expect(notFound("gene", ["CD3D", "LYZ"], "LYZZ")).toBe("No gene name contains “LYZZ”. Did you mean LYZ?");
    expect(notFound("column or gene", ["LYZ"], "qqq")).toBe("No column or gene name contains “qqq”.");
  });

  it("says where the match stands", () => {
    expect(matchParts("CD3D", "d3")).toEqual(["C", "D3", "D"]);
    expect(matchParts("CD3D", "x")).toEqual(["CD3D", "", ""]);
    expect(matchParts("<b>CD3D", "cd")).toEqual(["<b>", "CD", "3D"]);
  });
});

describe("models and jobs", () => {
  it("a model is recognised by each of its names", () => {
    const row = { source: "models:/starter@champion", name: "starter", version: "2" };
    for (const name of ["starter", "models:/starter@champion", "models:/starter/2"])
      expect(isPicked(row, name)).toBe(true);
    for (const name of [null, "models:/starter/1", "pca"]) expect(isPicked(row, name)).toBe(false);
  });

  it("a row is picked by each of its aliases, and a bare name is of one version", () => {
    const first = { source: "models:/starter@a", name: "starter", version: "1" };
    const rows = [
      {
        ...first,
        sources: ["models:/starter@a", "models:/starter@champion", "models:/starter/1", "starter"],
      },
      { ...first, source: "models:/starter/2", version: "2", sources: ["models:/starter/2"] },
    ];
    const picked = (name: string) => rows.filter((row) => isPicked(row, name)).map(({ version }) => version);
    for (const name of ["models:/starter@champion", "starter", "models:/starter/1"])
      expect(picked(name)).toEqual(["1"]);
    expect(picked("models:/starter/2")).toEqual(["2"]);
  });

  it("only work that a person waits for makes the bench busy", () => {
    expect(isBusy({ kind: "embed", status: "running" })).toBe(true);
    expect(isBusy({ kind: "null", status: "running" })).toBe(false);
    expect(isBusy({ kind: "embed", status: "done" })).toBe(false);
    expect(isBusy(null)).toBe(false);
  });
});

describe("work that is heard", () => {
  const job = {
    kind: "embed",
    label: "Running pca",
    status: "running",
    done: 0,
    total: 0,
    note: "opening the model",
  };

  it("is told at its beginning, its quarters and its end, however often its figures change", () => {
    const told = new Set<string>();
    for (let done = 0; done <= 700; done++)
      told.add(spokenJob({ ...job, done, total: 700, note: `${done}` }));
    const shares = [25, 50, 75, 100].map((share) => `Running pca: ${share} %`);
    expect([...told]).toEqual(["Running pca: begun", ...shares]);
    expect(spokenJob(job)).toBe("Running pca: begun");
    expect(spokenJob({ ...job, status: "done", note: "" })).toBe("Running pca: done.");
    expect(spokenJob({ ...job, status: "cancelled", note: "Nothing was kept." })).toMatch(
      /stopped\. Nothing/,
    );
  });

  it("is what somebody has started", () => {
    expect(spokenJob({ ...job, kind: "null" })).toBe("");
    expect(spokenJob(null)).toBe("");
  });
});

describe("levels that Python has set", () => {
  it("are a change, told beside the doses", () => {
    const shown = { doses: { CD3D: 0, LYZ: 1 }, set_to: { GNLY: 5 } };
    expect(hasLevels(shown)).toBe(true);
    expect(changeWords(shown)).toBe("CD3D knocked out, GNLY set to 5 per 10,000");
    expect(changeWords({ doses: {}, set_to: { GNLY: 2.5 } }, ": ")).toBe("GNLY: set to 2.5 per 10,000");
    expect(hasLevels({ set_to: {} })).toBe(false);
    expect(hasLevels(null)).toBe(false);
    expect(changeWords(null)).toBe("");
  });
});

describe("an effect beside its null", () => {
  const tested = { effect_tested: 3, n_cells: 700, n_tested: 200, null_low: 1, null_high: 2 };

  it("is of the cells that were tested, and says of how many where these are some", () => {
    const row = effect("CD3D", "all", 4, tested);
    expect([besideNull(row), testedOf(row)]).toEqual([3, 200]);
    expect(testedOf({ ...row, n_tested: 700 })).toBe(0);
  });

  it("stays apart from comparable genes where it does so after correction, and the words say the same", () => {
    const verdict = "stronger than comparable genes";
    const alone = effect("CD3D", "B", 4, { verdict, p_value: 0.033, q_value: 0.12 });
    expect([isDistinct(alone), verdictWords(alone)]).toEqual([false, `${verdict}, not after correction`]);
    const kept = { ...alone, q_value: 0.05 };
    expect([isDistinct(kept), verdictWords(kept)]).toEqual([true, verdict]);
    const further = { ...alone, verdict: "further from the target than comparable genes" };
    expect(verdictWords(further)).toBe(`${further.verdict}, not after correction`);
    const none = { ...alone, verdict: "not distinguishable from comparable genes" };
    expect(verdictWords(none)).toBe(none.verdict);
    const other = { ...alone, verdict: "too few cells to test", q_value: null };
    expect([isDistinct(other), verdictWords(other)]).toEqual([false, "too few cells to test"]);
  });

  it("is of all cells before the test, and where there is no null", () => {
    const row = effect("CD3D", "all", 4, { n_cells: 700 });
    expect([besideNull(row), testedOf(row)]).toEqual([4, 0]);
    const none = effect("CD3D", "all", 4, { ...tested, null_low: null, null_high: null });
    expect([besideNull(none), testedOf(none)]).toEqual([4, 0]);
  });
});

describe("the place of before and after", () => {
  const perturb = [{ component: "perturb", error: null }];

  it("is kept where doses can be set", () => {
    expect(canPerturb(perturb, { static: false })).toBe(true);
    expect(canPerturb(perturb, { static: true, responses: ["CD3D"] })).toBe(true);
    expect(canPerturb(perturb, { static: true, responses: [] })).toBe(false);
    expect(canPerturb([{ component: "perturb", error: "It is broken." }], { static: false })).toBe(false);
    expect(canPerturb(undefined, { static: false })).toBe(false);
  });
});
