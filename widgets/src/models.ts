/** A model of the registry in the words that stand on its card, and whether what is typed finds it. */

import * as format from "./format.ts";
import type { ModelRow } from "./types.ts";

/** What the card tells in one line. */
export function modelFacts(row: ModelRow): string[] {
  return [
    familyWords(row.family),
    row.kind,
    row.parameters ? `${format.number(row.parameters / 1e6)} M parameters` : "",
    row.licence ?? "no licence stated",
  ].filter(Boolean);
}

/** A warning about the licence; "" where it allows commercial use. */
export function licenceWarning({ commercial }: Pick<ModelRow, "commercial">): string {
  if (commercial === false) return "non-commercial";
  return commercial === null ? "commercial use not stated" : "";
}

/** Whether each word that is typed stands somewhere on the card. */
export function isFound(row: ModelRow, typed: string): boolean {
  const text = [
    row.name,
    row.version ? `v${row.version}` : "",
    row.family,
    ...modelFacts(row),
    licenceWarning(row),
    row.fit.verdict === "unknown" ? "" : row.fit.verdict,
    row.description,
    ...row.aliases.map((alias) => `@${alias}`),
    ...row.tags,
    ...row.abilities,
  ]
    .join("\n")
    .toLowerCase();
  return words(typed).every((word) => text.includes(word));
}

function words(typed: string): string[] {
  return typed.toLowerCase().split(/\s+/).filter(Boolean);
}

/** A family as people call it: "scfm." stands before those that come with scfm-lab. */
function familyWords(family: string): string {
  return family ? `${family.replace(/^scfm\./, "")} family` : "";
}
