"""What a fine-tuning gives: the model, how well it does beside what needs no training, and its record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, plural
from scfm_lab.evaluation.overlap import trained_among
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.evaluation.score import Scores
    from scfm_lab.models.contract import Model
    from scfm_lab.models.finetuned import FineTuning
    from scfm_lab.models.tokens import Tokens
    from scfm_lab.training.finetune import Job, Trained
    from scfm_lab.training.finetune_plan import FineTunePlan


@dataclass(frozen=True, repr=False)
class FineTuneResult(Result):
    """A fine-tuned model and its scores on cells that it has not seen.

    Attributes
    ----------
    model
        Labels cells by its head (:func:`scfm_lab.annotate` without a reference, ``model.predict``) and gives vectors as
        every model does.
    table
        One row per method on the same test cells: macro-F1 and accuracy with 95 % intervals; the fine-tuned model, its
        head alone on the parent's vectors, and the parameter-free floors. `unit` says what the intervals are over.
    history
        One row per epoch; epoch 0 is the head before the layers learn.
    parts
        ``"train"``, ``"validation"``, ``"test"`` or ``"unseen"`` for each cell that was given.
    labels
        What the model says of each test cell; None elsewhere.
    """

    model: Model
    parent: Model
    table: pd.DataFrame
    history: pd.DataFrame
    parts: NDArray[Any]
    labels: NDArray[Any]
    plan: FineTunePlan
    changed: dict[str, torch.Tensor] = field(repr=False)
    names: NDArray[Any] = field(repr=False)
    test_tokens: Tokens = field(repr=False)
    """The test cells as the model reads them."""
    places: list[str] = field(default_factory=list)
    """Versions that it was registered as, such as ``"blood/1"``."""

    @property
    def registered(self) -> str:
        """The version that it was registered as last; empty where it was not."""
        return self.places[-1] if self.places else ""

    @property
    def tuning(self) -> FineTuning:
        """Record and digests of the cells."""
        assert self.model.finetuning is not None
        return self.model.finetuning

    @property
    def record(self) -> dict[str, Any]:
        """Parent, data, split, settings, history, metrics, code, who, when and where."""
        return self.tuning.record

    @property
    def scores(self) -> Scores:
        """Macro-F1 and accuracy of the fine-tuned model, each with its interval and the best floor beside it."""
        from scfm_lab.evaluation.score import Score, Scores

        first, floors = self.table.iloc[0], self.table[self.table["what"] == "floor"]
        flags = " ".join(told for told in self.record["remarks"] if told.startswith("Flagged"))
        missing = ["no second annotation that would give a ceiling"]
        missing += [] if len(floors) else ["the floors were not computed"]
        found = []
        for metric, name in (("macro_f1", "macro-F1"), ("accuracy", "accuracy")):
            best = floors.loc[floors[metric].idxmax()] if len(floors) else None
            found.append(
                Score(
                    name,
                    str(first["method"]),
                    float(first[metric]),
                    low=float(first[f"{metric}_low"]),
                    high=float(first[f"{metric}_high"]),
                    floor=np.nan if best is None else float(best[metric]),
                    floor_name="" if best is None else str(best["method"]),
                    ceiling_name="second annotation",
                    interval=f"95 % bootstrap over {first['unit']}",
                    n=int(first["n_cells"]),
                    units=int(first["units"]),
                    missing="; ".join(missing),
                    remark=flags.removesuffix("."),
                    gain_low=np.nan if best is None else float(best[f"{metric}_gain_low"]),
                    gain_high=np.nan if best is None else float(best[f"{metric}_gain_high"]),
                )
            )
        split = self.record["split"]["rule"]
        return Scores(tuple(found), title="Labels of held-out cells", notes=(f"split {split}", *self.record["remarks"]))

    def summary(self) -> str:
        """The scores beside the floors, and what was held out how."""
        record, rows = self.record, list(self.table.itertuples())
        sizes = record["split"]["cells"]
        first = rows[0]
        lines = [
            f"{first.method} on {first.n_cells:,} held-out cells ({len(record['labels']['names'])} labels, split "
            f"{record['split']['rule']}): macro-F1 {first.macro_f1:.3f} [{first.macro_f1_low:.3f}, {first.macro_f1_high:.3f}], "
            f"accuracy {first.accuracy:.3f} [{first.accuracy_low:.3f}, {first.accuracy_high:.3f}]."
        ]
        lines += [
            f"  {row.method}: macro-F1 {row.macro_f1:.3f} [{row.macro_f1_low:.3f}, {row.macro_f1_high:.3f}], accuracy "
            f"{row.accuracy:.3f}."
            for row in rows[1:]
        ]
        floors = self.table[self.table["what"] == "floor"]
        if len(floors):
            best = floors.loc[floors["macro_f1"].idxmax()]
            gain = first.macro_f1 - best["macro_f1"]
            clear = best["macro_f1_gain_low"] > 0 or best["macro_f1_gain_high"] < 0
            lines.append(
                f"Against the best floor ({best['method']}): {gain:+.3f} macro-F1"
                + ("." if clear else ", which these cells do not tell from chance.")
            )
        epochs = len(record["history"]) - 1
        if epochs > 0:
            kept = record["best_epoch"]
            lines.append(
                f"Trained on {sizes['train']:,} cells for {plural(epochs, 'epoch', 'epochs')}; kept: "
                + (
                    f"epoch {kept}."
                    if kept
                    else "the weights before the first step, since no epoch did better in validation."
                )
            )
        else:
            lines.append(f"The head alone was fitted, to {sizes['train']:,} cells.")
        lines += list(record.get("remarks", []))
        return "\n".join(lines)

    def plot(self) -> Any:
        """Macro-F1 of every method with its interval (Altair)."""
        alt = charts()
        base = alt.Chart(self.table).encode(y=alt.Y("method:N", sort=None, title=None))
        points = base.mark_point(filled=True, size=80).encode(
            x=alt.X("macro_f1:Q", title="macro-F1 on held-out cells", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("what:N", title=None),
            tooltip=["method", alt.Tooltip("macro_f1", format=".3f"), alt.Tooltip("accuracy", format=".3f"), "n_cells"],
        )
        return base.mark_rule().encode(x="macro_f1_low:Q", x2="macro_f1_high:Q") + points

    def to_json(self) -> dict[str, Any]:
        """Summary, table and epochs as plain values."""
        return {**super().to_json(), "history": self.record["history"], "best_epoch": self.record["best_epoch"]}

    def write(self, adata: AnnData, *, key_added: str | None = None) -> None:
        """Write to ``obs`` which part each cell was in, and what the model says of the test cells.

        Parameters
        ----------
        adata
            The cells that the model was fine-tuned with.
        key_added
            Column of the labels; default: that of the known labels and the model's name. The part is in
            ``<key_added>_part``.

        Raises
        ------
        DataError
            They are other cells.
        """
        import pandas as pd

        from scfm_lab.cells import provenance

        if not np.array_equal(np.asarray(adata.obs_names.astype(str), dtype=object), self.names):
            raise DataError("These are not the cells that the model was fine-tuned with.")
        data = self.record["data"]
        key = provenance.free_key(
            adata, "obs", key_added or f"{data['labels_key']}_{self.model.name}_finetuned", given=key_added is not None
        )
        provenance.free_key(adata, "obs", f"{key}_part", given=True)
        record = provenance.of_model(
            self.model, task="finetune", data_digest=data["digest"], split=self.record["split"]["rule"]
        )
        for name, values in ((key, self.labels), (f"{key}_part", self.parts)):
            adata.obs[name] = pd.Categorical(values)
            provenance.record(adata, name, record, slot="obs")

    def save(self, folder: str | Path, *, full: bool = False) -> Path:
        """Write the model into a new folder that :func:`scfm_lab.load_model` opens.

        Parameters
        ----------
        folder
            It must not exist, or be empty.
        full
            False: what changed beside the parent, which is opened first (from the registry, by its digest, or from where
            it was). True: everything, in the format in which the family is published, so that its own code reads it. A
            head has a place there in scGPT's, Geneformer's and scBERT's format, if it is the ``"published"`` one; another
            lies beside, with the record.

        Raises
        ------
        DataError
            The folder holds something.
        ModelError
            The model was opened with files that have no place in that format (species that were added).
        """
        from scfm_lab.models.finetuned_files import save

        return save(self.model, self.changed, Path(folder).expanduser(), full=full)

    def register(self, name: str, *, consent: str | None = None) -> Any:
        """Keep it as a version of the registry, with its parent, its record and a run of its training.

        Parameters
        ----------
        name
            What it is called there.
        consent
            As for :func:`scfm_lab.finetune`.

        Returns
        -------
        The version.

        Raises
        ------
        ModelError
            The name breaks the registry's rules, or the parent is not there.
        """
        from scfm_lab.training.tracking import said, tracker

        kept = tracker().register(name, self, **said(consent))
        self.places.append(str(kept.reference))
        return kept


def finish(job: Job, trained: Trained, plan: FineTunePlan, *, floors: bool, seconds: float) -> FineTuneResult:
    """Score the test cells, put the floors beside, write the record and attach it to the model."""
    import pandas as pd

    from scfm_lab.evaluation.label_floors import label_floors
    from scfm_lab.evaluation.label_scores import label_gains, label_scores
    from scfm_lab.models.finetuned import FineTuning, attach, changes
    from scfm_lab.training.finetune_record import cell_digests, make_record

    names, codes, split, recipe = job.labelled.names, job.labelled.codes, job.split, job.recipe
    model = trained.model
    model.head, model.head_kind = trained.head, recipe.head
    given = _labels(job, model, trained.head)
    truth = names[codes[split.test]]
    samples = None if job.labelled.samples is None else job.labelled.samples[split.test]
    how: dict[str, Any] = {"samples": samples, "seed": recipe.seed}
    answers = {(f"fine-tuned {job.model.spec.name}", "model"): names[given]}
    if trained.probe_logits is not None and trained.history:
        answers[f"{job.model.spec.name}, head alone", "head"] = names[trained.probe_logits.argmax(axis=1)]
    if floors:
        found = label_floors(
            job.labelled.cells,
            codes,
            split.train,
            split.validation,
            split.test,
            n_labels=len(names),
            weights=job.weights,
        )
        answers |= {(floor, "floor"): names[labels] for floor, labels in found.items()}
    rows = []
    for (method, what), labels in answers.items():
        scores = label_scores(truth, labels, **how)
        # Of a floor also how much better the model is, in the same resamples.
        gains = label_gains(truth, names[given], labels, **how) if what == "floor" else {}
        rows.append(
            {
                "method": method,
                "what": what,
                **scores.to_dict(),
                "n_cells": scores.n_cells,
                "unit": scores.unit,
                "units": scores.units,
                **gains,
            }
        )
    record = make_record(job, trained, rows, seconds=seconds, remarks=_remarks(job))
    tuning = FineTuning(record, cell_digests(job), job.model.finetuning)
    changed = changes(job.model, model)
    attach(model, tuning, changed, "the fine-tuned model", head=trained.head)
    parts = np.full(len(codes), "unseen", dtype=object)
    said = np.full(len(codes), None, dtype=object)
    for part in ("train", "validation", "test"):
        parts[getattr(split, part)] = part
    said[split.test] = names[given]
    return FineTuneResult(
        model=model,
        parent=job.model,
        table=pd.DataFrame(rows),
        history=pd.DataFrame(trained.history).drop(columns="time", errors="ignore"),
        parts=parts,
        labels=said,
        plan=plan,
        changed=changed,
        names=job.labelled.cells.names,
        test_tokens=job.tokens.take(split.test),
    )


def _labels(job: Job, model: Model, head: Any) -> NDArray[np.int64]:
    """Number of the label that the model gives each test cell."""
    import torch

    from scfm_lab.models.trainable import head_inputs

    head.eval()
    given = np.zeros(len(job.split.test), dtype=np.int64)
    for rows, inputs in head_inputs(model, job.tokens.take(job.split.test), job.recipe.head):
        with torch.inference_mode():
            given[rows] = head(inputs).argmax(dim=1).cpu().numpy()
    return given


def _remarks(job: Job) -> list[str]:
    """What a reader of the scores has to know."""
    labelled, split = job.labelled, job.split
    out = []
    blind = len(labelled) - sum(len(getattr(split, part)) for part in ("train", "validation", "test"))
    if blind:
        out.append(f"The model sees no gene of {plural(blind, 'cell', 'cells')}; they were left out.")
    learnt = set(labelled.codes[split.train].tolist())
    unseen = [str(labelled.names[c]) for c in np.unique(labelled.codes[split.test]) if c not in learnt]
    if unseen:
        out.append(
            f"The training samples hold no cell of {', '.join(unseen)}; the model cannot give what it was not shown, and that "
            "counts against it."
        )
    if seen := int(trained_among(job.model, labelled.cells.take(split.test), job.options).sum()):
        name = job.model.version or job.model.name
        out.append(
            f"Flagged: {seen:,} of the {len(split.test):,} test cells are in the training record of {name}; the floors had not seen them."
        )
    if labelled.samples is None:
        out.append("Cells of one sample are in training and test alike; name sample_key to hold out whole samples.")
    return out
