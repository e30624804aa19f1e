import { describe, expect, it } from "vitest";
import { isFound } from "../src/models.ts";
import type { ModelRow } from "../src/types.ts";

function row(more: Partial<ModelRow> = {}): ModelRow {
  return {
    source: "models:/scgpt/1",
    sources: [],
    reference: "scgpt/1",
    created: "",
    name: "scgpt",
    version: "1",
    aliases: ["champion"],
    family: "scfm.scgpt",
    kind: "pretrained",
    licence: "MIT",
    commercial: false,
    parameters: 51_300_000,
    tags: ["organism: human"],
    fit: { verdict: "fits", reason: "", source: "estimated" },
    abilities: ["embed"],
    description: "Trained on 33 million cells",
    blocked: null,
    ...more,
  };
}

describe("the search among models", () => {
  it.each([
    "scgpt human",
    "HUMAN scgpt",
    "@champion",
    "non-commercial",
    "fits",
    "v1",
    "scgpt family",
    "51.3 M",
    "",
  ])("finds what stands on the card: %s", (typed) => {
    expect(isFound(row(), typed)).toBe(true);
  });

  it("wants every word", () => {
    expect(isFound(row(), "scgpt mouse")).toBe(false);
    expect(isFound(row({ fit: { verdict: "tight", reason: "", source: "" } }), "scgpt fits")).toBe(false);
    expect(isFound(row({ commercial: true }), "non-commercial")).toBe(false);
    expect(isFound(row({ aliases: [] }), "@champion")).toBe(false);
  });

  it("finds a licence that nobody has stated", () => {
    const unknown = row({ licence: null, commercial: null });
    expect(isFound(unknown, "no licence stated")).toBe(true);
    expect(isFound(unknown, "commercial use not stated")).toBe(true);
  });

  it("does not find a verdict that is not on the card", () => {
    expect(isFound(row({ fit: { verdict: "unknown", reason: "", source: "" } }), "unknown")).toBe(false);
  });
});
