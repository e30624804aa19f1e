"""What a screen asks: in which groups of cells, about which genes, beside which others; and what it is told apart by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.errors import GenesError, plural
from scfm_lab.evaluation.nulls import comparable_genes
from scfm_lab.tasks.gene_null import subsample
from scfm_lab.tasks.perturb_result import ALL, group_rows
from scfm_lab.tasks.screen_tests import Group
from scfm_lab.tasks.sweep import Question

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scfm_lab.tasks.baseline import Baseline
    from scfm_lab.tasks.contrast import Conditions


class Questions:
    """The part of :class:`~scfm_lab.tasks.screen.Screen` that says what is asked."""

    lab: Baseline
    dose: float
    draws: int
    max_cells: int | None
    n_null: int
    readouts: list[Any]
    groups: list[Group]
    unseen: dict[str, int]
    used: NDArray[np.int64]
    singles: list[Question]
    null: list[Question]
    conditions: Conditions | None
    target: str | None
    started: float
    skipped: dict[str, str]
    arguments: dict[str, Any]
    given_reference: bool

    def _groups(self) -> tuple[list[Group], dict[str, int]]:
        """The groups with the cells that are asked about; and those in none of whose cells the model sees a gene, with their size."""
        lab = self.lab
        rows_of = list(group_rows(lab.groups, len(lab.cells)))
        chosen: dict[str, NDArray[np.int64]] = {}
        unseen: dict[str, int] = {}
        for name, members in rows_of[1:] or rows_of:
            rows = members[lab.seen[members]]
            if not len(rows):
                unseen[name] = len(members)
                continue
            chosen[name] = rows if self.max_cells is None else subsample(rows, lab.cells.keys, self.max_cells)
        if ALL not in chosen:
            # All cells together are those of all groups, so that nothing is computed for them alone.
            chosen = {ALL: np.sort(np.concatenate(list(chosen.values()))), **chosen}
        return [Group(name, rows) for name, rows in chosen.items()], unseen

    def _notes(self) -> list[str]:
        """What of the cells could not be asked, in sentences."""
        named = [f"{group} ({plural(n, 'cell', 'cells')})" for group, n in self.unseen.items()]
        if not named:
            return []
        return [f"Left out, as {self.lab.model.spec.name} sees a gene in none of their cells: {', '.join(named)}."]

    def _singles(self, genes: Sequence[str] | None) -> list[Question]:
        lab = self.lab
        counts = lab.cells.counts[self.used]
        expressed = np.bincount(counts.indices, minlength=counts.shape[1]) > 0
        names = lab.cells.genes.names
        silent_is_none = self.dose < 1
        questions = []
        if genes is None:
            done: set[int] = set()
            for column in np.flatnonzero(lab.known & expressed).tolist():
                # Columns that the model sums are one gene.
                together = [column, *lab.summed.get(column, ())]
                if column not in done:
                    done.update(together)
                    questions.append(self._question(together, str(names[column])))
            if not questions:
                raise GenesError(f"None of the genes that {lab.model.spec.name} knows is expressed in any chosen cell.")
            return questions
        for gene in genes:
            by_column, _, _ = lab.resolve({str(gene): self.dose}, None)
            column = next(iter(by_column))
            if silent_is_none and not expressed[column]:
                self.skipped[str(gene)] = "not expressed in any chosen cell"
            elif any(q.columns == (column,) for q in questions):
                raise GenesError(f"{gene!r} is named twice.")
            else:
                questions.append(self._question([column], str(gene)))
        if not questions:
            told = ", ".join(list(self.skipped)[:5]) + (" …" if len(self.skipped) > 5 else "")
            raise GenesError(
                f"{'None of the genes' if len(self.skipped) > 1 else 'The gene'} ({told}) is {'' if len(self.skipped) > 1 else 'not '}expressed in any chosen cell, so "
                f"that a dose of {self.dose:g} changes nothing; choose other genes or cells."
            )
        return questions

    def _question(self, columns: list[int], name: str, rows: NDArray[np.int64] | None = None) -> Question:
        return Question(dict.fromkeys(columns, self.dose), rows=self.used if rows is None else rows, name=name)

    def _null(self) -> list[Question]:
        """Comparable genes outside the list, each asked about in the cells of the groups that it is a null for."""
        lab = self.lab
        asked = sorted({c for q in self.singles for c in q.columns})
        candidates = lab.known.copy()
        candidates[list(lab.summed)] = False
        candidates[asked] = False
        wanted: dict[int, list[NDArray[np.int64]]] = {}
        for group in self.groups:
            f = group.features(lab)
            for q in self.singles:
                if not group.testable(lab, q, self.dose):
                    continue
                for gene in comparable_genes(f, q.columns[0], candidates=candidates, n=self.n_null).tolist():
                    wanted.setdefault(gene, []).append(group.rows)
        names = lab.cells.genes.names
        return [
            self._question([gene], str(names[gene]), np.unique(np.concatenate(rows)))
            for gene, rows in sorted(wanted.items())
        ]

    # --- what it is told apart by ---------------------------------------------------------

    def text(self, question: Question) -> str:
        """A question as the journal calls it."""
        import hashlib

        names = self.lab.cells.genes.names
        doses = "+".join(f"{names[c]}[{c}]={d:g}" for c, d in sorted(question.doses.items()))
        if question.rows is None or len(question.rows) == len(self.used):
            return doses
        return f"{doses}@{hashlib.sha256(question.rows.tobytes()).hexdigest()[:16]}"

    def _identity(self) -> dict[str, Any]:
        import hashlib

        lab = self.lab
        cells = hashlib.sha256(lab.cells.keys.tobytes() + lab.cells.total.tobytes() + self.used.tobytes())
        if self.dose > 1 and lab.groups is not None:
            # The rates of what is added are those of the groups.
            cells.update("\n".join(lab.groups).encode())
        return {
            "model": lab.model.digest or lab.model.version,
            "settings": lab.model.settings_digest,
            "family": lab.model.family,
            "options": lab.model.check_options(lab.options),
            "precision": lab.model.precision,
            "device": lab.model.device.split(":")[0],
            "cells": cells.hexdigest(),
            "genes": hashlib.sha256(lab.cells.gene_hashes.tobytes()).hexdigest(),
            "readouts": [readout.identity() for readout in self.readouts],
            "draws": self.draws if self.dose not in (0.0, 1.0) else 1,
            "seed": lab.seed,
        }

    def _provenance(self, task: str) -> dict[str, Any]:
        """The record of a result."""
        lab = self.lab
        return provenance.of_model(
            lab.model,
            task=task,
            dose=self.dose,
            genes=len(self.singles),
            null_genes=len(self.null),
            cells=len(self.used),
            cells_given=len(lab.cells),
            arguments={**lab.arguments, **self.arguments},
            reference_given=self.given_reference,
            groupby=lab.groupby,
            sample_key=lab.sample_key,
            contrast=None if self.conditions is None else self.conditions.text,
            target=self.target,
            readouts=[readout.name for readout in self.readouts],
            n_null=self.n_null,
            max_cells=self.max_cells,
            draws=self.draws,
            seed=lab.seed,
            options=lab.model.check_options(lab.options),
            **lab.audit.as_provenance(),
            seconds=time.perf_counter() - self.started,
        )
