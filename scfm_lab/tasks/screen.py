"""Every gene in turn, ranked, each beside comparable genes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells import provenance
from scfm_lab.cells.dose import check_dose
from scfm_lab.cells.given import check_given
from scfm_lab.errors import DataError
from scfm_lab.evaluation.nulls import N_NULL, check_n_null
from scfm_lab.tasks.baseline import Baseline
from scfm_lab.tasks.journal import Journal, digest
from scfm_lab.tasks.perturb_plan import PerturbPlan, peak_gib
from scfm_lab.tasks.progress import as_progress, somebody_looks
from scfm_lab.tasks.readouts import make_readouts
from scfm_lab.tasks.screen_questions import Questions
from scfm_lab.tasks.screen_tests import Measured, tested
from scfm_lab.tasks.sweep import Effect, Question, sweep

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anndata import AnnData

    from scfm_lab.models.contract import Model
    from scfm_lab.tasks.contrast import ContrastResult
    from scfm_lab.tasks.screen_result import ScreenResult

#: Null genes of a gene: those of a list cost time, those of a full screen are there anyway.
_NULL_OF_ALL = 500
_MOST_PAIRED = 50
_TRIED = 64


def screen(
    adata: AnnData,
    model: Model | str | Path,
    genes: Sequence[str] | None = None,
    *,
    dose: float = 0.0,
    groupby: str | None = None,
    sample_key: str | None = None,
    contrast: str | tuple[str, str, str] | None = None,
    target: str | None = None,
    reference: AnnData | None = None,
    labels_key: str | None = None,
    readouts: Sequence[str] | None = None,
    n_null: int | None = None,
    pairs: int = 0,
    max_cells: int | None = None,
    n_draws: int = 2,
    layer: str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    resume: str | Path | None = None,
    progress: bool | Callable[..., None] = True,
    cancel: Any = None,
) -> ScreenResult | ContrastResult:
    """Give one gene after the other another dose, and rank them by their effect beside comparable genes.

    The unperturbed cells are encoded once, of each gene only the cells that it changes are computed, and those of many genes
    go through the model in one batch. Finished genes are kept in a journal on disk: the same call after a crash, or with the
    same `resume`, goes on where it was and gives the same result. What it will take is told before it starts
    (:class:`Screen` has it as ``plan()``, :func:`scfm_lab.plan_perturb` without the unperturbed cells being encoded).

    Parameters
    ----------
    adata
        With raw counts; nothing in it is changed.
    model
        An opened model or a source for :func:`scfm_lab.load_model`.
    genes
        Genes to ask about; None: all that the model knows and the cells express.
    dose
        0 knockout, between 0 and 1 knock-down, above 1 over-expression (see :func:`scfm_lab.perturb`).
    groupby
        Column of ``obs``: effects and nulls are told for each of its values too.
    sample_key
        Column of ``obs`` with the donor or sample, the unit of replication: adds an interval over samples to each effect.
    contrast
        A column of two conditions, or (column, condition, baseline condition): another question is asked, do the conditions
        respond differently, over the samples of `sample_key`? See :class:`~scfm_lab.tasks.contrast.ContrastResult`.
    target
        A group (of `labels_key`, else `groupby`), or a label of the `reference`: adds the read-out ``towards_target``.
    reference
        Cells, annotated in `labels_key`, among which the target is, and which then vote for the read-out ``label``. Their counts
        are where those of the cells are (`layer`).
    readouts
        ``"shift"`` (default), ``"towards_target"``, ``"expression"`` (models that predict expression), ``"label"``
        (whether the label of the nearest cells changes; `labels_key`, else `groupby`; of the reference where there is one).
    n_null
        Most null genes of each gene; None: up to 500 comparable ones where all genes are screened, since they are computed
        anyway, else 59. At least 19.
    pairs
        The so many best genes are also changed two by two: told beside pairs of comparable genes and beside what the two add up
        to, without a p-value, since they were chosen by what they do in these cells.
    max_cells
        Most cells of each group (chosen by their digests); None: all.
    n_draws
        Draws over which doses other than 0 and 1 are averaged.
    resume
        File of the journal; None: one in the user's data directory, removed when the screen is complete.

    Returns
    -------
    ScreenResult
        ``.table`` has the columns gene, group, readout, effect, null_mean, null_sd, p_value, q_value, n_cells; with
        `sample_key` also effect_samples, effect_low, effect_high, n_samples, n_samples_few.
    ContrastResult
        With `contrast`.

    Raises
    ------
    GenesError
        If a gene is not there or not known to the model, or none of them is expressed in any chosen cell.
    DataError
        If an argument does not fit the cells, or the journal is of another screen.
    Cancelled
        If `cancel` was set; what was finished stays in the journal.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> adata = sl.datasets.load("pbmc68k")
    >>> result = sl.screen(adata, "pca", ["CD3D", "MS4A1"], n_null=20, progress=False)
    >>> sorted(result.table["gene"])
    ['CD3D', 'MS4A1']
    """
    check_given(adata, model, function="sl.screen")
    lab = Screen(
        adata,
        model,
        genes,
        dose=dose,
        groupby=groupby,
        sample_key=sample_key,
        contrast=contrast,
        target=target,
        reference=reference,
        labels_key=labels_key,
        readouts=readouts,
        n_null=n_null,
        pairs=pairs,
        max_cells=max_cells,
        n_draws=n_draws,
        layer=layer,
        options=options,
        seed=seed,
        resume=resume,
        progress=progress,
        cancel=cancel,
    )
    if progress is True and somebody_looks():
        from tqdm.auto import tqdm

        tqdm.write(lab.plan().summary())
    return lab.run(progress=progress, cancel=cancel)


class Screen(Questions):
    """A screen made ready: what it will take can be asked before it runs.

    Parameters are those of :func:`screen`.
    """

    def __init__(
        self,
        adata: AnnData,
        model: Model | str | Path,
        genes: Sequence[str] | None = None,
        *,
        dose: float = 0.0,
        groupby: str | None = None,
        sample_key: str | None = None,
        contrast: str | tuple[str, str, str] | None = None,
        target: str | None = None,
        reference: AnnData | None = None,
        labels_key: str | None = None,
        readouts: Sequence[str] | None = None,
        n_null: int | None = None,
        pairs: int = 0,
        max_cells: int | None = None,
        n_draws: int = 2,
        layer: str | None = None,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        resume: str | Path | None = None,
        progress: bool | Callable[..., None] = False,
        cancel: Any = None,
    ) -> None:
        from scfm_lab.tasks.contrast import Conditions

        self.started = time.perf_counter()
        self.dose = check_dose("every gene", dose)
        if self.dose == 1:
            raise DataError("dose is 1, which changes nothing; 0 is a knockout, 2 twice the level.")
        if isinstance(genes, str):
            genes = [genes]
        if genes is not None and not len(genes):
            raise DataError("The list of genes is empty; leave genes out to screen all of them.")
        if n_null is not None and contrast is None:
            check_n_null(n_null)
        for name, value, least in (("n_draws", n_draws, 1), ("pairs", pairs, 0), ("max_cells", max_cells or 1, 1)):
            if value < least:
                raise DataError(f"{name} is {value}; it must be at least {least}.")
        if pairs == 1 or pairs > _MOST_PAIRED:
            raise DataError(f"pairs is {pairs}; name how many of the best genes are combined, 2 to {_MOST_PAIRED}.")
        if contrast is not None and pairs:
            raise DataError("pairs and contrast are two questions; ask one of them.")
        self.conditions = None if contrast is None else Conditions.of(adata, contrast, sample_key)
        self.lab = Baseline(
            adata,
            model,
            groupby=groupby,
            sample_key=sample_key,
            layer=layer,
            options=options,
            seed=seed,
            progress=progress,
            cancel=cancel,
        )
        if not self.lab.seen.any():
            raise DataError(f"In none of the {len(self.lab.cells):,} cells does {self.lab.model.spec.name} see a gene.")
        self.readouts = make_readouts(
            self.lab,
            adata,
            names=readouts,
            target=target,
            reference=reference,
            labels_key=labels_key,
            progress=progress,
            cancel=cancel,
        )
        self.target, self.draws, self.pairs, self.max_cells = target, n_draws, pairs, max_cells
        self.groups, self.unseen = self._groups()
        self.used = np.unique(np.concatenate([g.rows for g in self.groups]))
        self.skipped: dict[str, str] = {}
        self.whole = genes is None
        self.arguments = provenance.arguments(
            genes=None if genes is None else [str(gene) for gene in genes],
            sample_key=sample_key,
            target=target,
            labels_key=labels_key,
            readouts=None if readouts is None else list(readouts),
            n_null=n_null,
            pairs=pairs,
            max_cells=max_cells,
            n_draws=n_draws,
        )
        self.given_reference = reference is not None
        self.singles = self._singles(genes)
        self.n_null = n_null or (_NULL_OF_ALL if self.whole else N_NULL)
        self.null = [] if self.whole or contrast is not None else self._null()
        self.given = None if resume is None else Path(resume).expanduser()

    def plan(self) -> PerturbPlan:
        """What :meth:`run` will take, from a trial of some cells on this machine."""
        questions = [*self.singles, *self.null]
        costs = np.array([q.cost(self.lab.cells, self.draws) for q in questions])
        with_journal = self._journal()
        try:
            finished = with_journal.finished(len(self.readouts))
        finally:
            with_journal.close()
        left = np.array([self.text(q) not in finished for q in questions], dtype=bool)
        cells = self.lab.cells
        tried = cells.take(self.used[np.linspace(0, len(self.used) - 1, _TRIED).astype(int)])
        few = tried.take(np.arange(min(8, len(tried))))
        longest = int(self.lab.model.tokenize(few, options=self.lab.options).lengths.max(initial=1))
        self.lab.vectors(few)
        started = time.perf_counter()
        self.lab.vectors(tried)
        each = (time.perf_counter() - started) / len(tried)
        # Pairs and their nulls are chosen by what the single genes do; most they can cost is told.
        more = len(self.used) * (self.pairs * (self.pairs - 1) // 2) * (1 + N_NULL)
        return PerturbPlan(
            n_genes=len(self.singles),
            n_null=len(self.null),
            n_cells=len(self.used),
            perturbed_cells=int(costs.sum()) + more,
            finished=int(costs[~left].sum()),
            seconds=each * (float(costs[left].sum()) + more),
            device=f"{self.lab.model.device} in {self.lab.model.precision}",
            draws=self.draws if any(q.random for q in self.singles) else 1,
            peak_gib=peak_gib(self.lab.model, cells, int(costs.sum()) + more, longest=longest),
        )

    def run(
        self,
        *,
        progress: bool | Callable[..., None] = False,
        cancel: Any = None,
        each: Callable[[str, Effect], None] | None = None,
    ) -> ScreenResult | ContrastResult:
        """Compute what is not finished yet, and test it.

        Parameters
        ----------
        each
            Called with the name and the :class:`~scfm_lab.tasks.sweep.Effect` of each gene as soon as it is there.
        """
        journal = self._journal()
        complete = False
        try:
            found = self._answers(journal, [*self.singles, *self.null], progress, cancel, each)
            if self.conditions is not None:
                result: Any = self._contrast(found)
            else:
                result = self._screen(journal, found, progress, cancel)
            complete = True
        finally:
            journal.close(remove=complete and self.given is None)
        return result

    # --- computing ----------------------------------------------------------------------

    def _journal(self) -> Journal:
        from scfm_lab.home import data_home

        identity = self._identity()
        path = self.given or data_home() / "screens" / f"{digest(identity)[:24]}.sqlite"
        return Journal(path, identity)

    def _answers(
        self,
        journal: Journal,
        questions: Sequence[Question],
        progress: bool | Callable[..., None],
        cancel: Any,
        each: Callable[[str, Effect], None] | None = None,
        what: str = "Genes",
    ) -> dict[str, Effect]:
        finished = journal.finished(len(self.readouts))
        texts = [self.text(q) for q in questions]
        left = [i for i, text in enumerate(texts) if text not in finished]
        names = {self.text(q): q.name for q in self.singles}
        if each is not None:
            for text in texts:
                if text in finished and text in names:
                    each(names[text], finished[text])
        done = len(questions) - len(left)
        with as_progress(progress, f"{what} with {self.lab.model.spec.name}", unit="genes") as report:
            if report is not None:
                report(done, len(questions))
            todo = [questions[i] for i in left]
            for block in sweep(self.lab, todo, readouts=self.readouts, draws=self.draws, cancel=cancel):
                kept = [(texts[left[number]], effect) for number, effect in block]
                journal.add(kept)
                for text, effect in kept:
                    finished[text] = effect
                    if each is not None and text in names:
                        each(names[text], effect)
                done += len(kept)
                if report is not None:
                    report(done, len(questions))
        return finished

    # --- results ------------------------------------------------------------------------

    def _screen(
        self, journal: Journal, found: dict[str, Effect], progress: bool | Callable[..., None], cancel: Any
    ) -> ScreenResult:
        from scfm_lab.tasks.screen_result import ScreenResult

        singles = Measured.of(self.lab, self.singles, [found[self.text(q)] for q in self.singles], self.readouts)
        null = Measured.of(self.lab, self.null, [found[self.text(q)] for q in self.null], self.readouts)
        details = tested(
            self.lab, self.groups, singles, singles if self.whole else null, n_null=self.n_null, dose=self.dose
        )
        if self.pairs:
            from scfm_lab.tasks.screen_pairs import pair_rows

            details = pair_rows(
                self,
                details,
                singles,
                lambda qs: self._answers(journal, qs, progress, cancel, what="Pairs"),
                cancel=cancel,
            )
        return ScreenResult(
            details=details,
            measured=singles,
            dose=self.dose,
            target=self.target,
            n_null=self.n_null,
            whole=self.whole,
            skipped=self.skipped,
            provenance=self._provenance("screen"),
            notes=tuple(self._notes()),
        )

    def _contrast(self, found: dict[str, Effect]) -> ContrastResult:
        from scfm_lab.tasks.contrast import ContrastResult, contrasted

        assert self.conditions is not None
        singles = Measured.of(self.lab, self.singles, [found[self.text(q)] for q in self.singles], self.readouts)
        details, notes = contrasted(self.lab, self.groups, singles, self.conditions)
        return ContrastResult(
            details=details,
            conditions=self.conditions,
            dose=self.dose,
            skipped=self.skipped,
            notes=(*self._notes(), *notes),
            provenance=self._provenance("screen, contrast"),
        )
