"""What a version reached in evaluations, beside floors: recorded once, read by gates, comparisons and cards.

Scores come from two places: the record of its fine-tuning among its files (``finetuning.json``), and evaluations that were
recorded later as runs. Each is tied to the digest of the data it was taken on, and only scores on the same data are compared.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, ScfmError
from scfm_registry import files, names
from scfm_registry.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scfm_lab.evaluation.score import Score
    from scfm_registry.version import ModelVersion, Record

#: Name of the document among a run's files, and of a fine-tuning's record among a version's.
DOCUMENT, FINETUNING = "scores.json", "finetuning.json"
TASK = "evaluate"
_METRICS = ("macro_f1", "accuracy")
#: Name, among a version's files, of the cells that a fine-tuning was split into.
CELLS = "cells.safetensors"
#: How a remark begins that takes a score its word: cells of the training record are among those that were scored.
_FLAGGED = "Flagged"
_NUMBERS = ("value", "low", "high", "floor", "ceiling", "gain_low", "gain_high")


class Evaluator(Reader):
    """What keeps the scores of versions."""

    def record_scores(self, reference: str, scores: Iterable[Score], *, data_digest: str) -> str:
        """Keep scores of a version, as evidence that gates and comparisons read.

        Parameters
        ----------
        reference
            Which version.
        scores
            Each with its value, interval and floor, as evaluations give them.
        data_digest
            Of the cells they were taken on (``sha256:…``): only scores on the same cells are compared. Those that a fine-tuning
            held out have the digest that :meth:`scores` tells of its own scores.

        Returns
        -------
        str
            Id of the MLflow run that keeps them.

        Raises
        ------
        ModelError
            The version is unknown, or a score is no finite number.

        Examples
        --------
        >>> from scfm_lab.evaluation.score import Score
        >>> from scfm_registry import Registry
        >>> score = Score("macro_f1", "starter", 0.71, low=0.66, high=0.75, floor=0.64, floor_name="pca")
        >>> run = Registry().record_scores("starter/1", [score], data_digest="sha256:" + "0" * 64)
        """
        found, record = self._find(names.parse(reference))
        rows = [_row(score, data_digest) for score in scores]
        if not rows:
            message = f"There are no scores to keep for {found.reference}."
            raise ModelError(message)
        tags = {"scfm.task": TASK, "scfm.digest": found.digest, "scfm.version": found.reference}
        metrics = {_metric_name(row["metric"]): row["value"] for row in rows}
        run = self._store.log_run(
            f"evaluate {found.reference}",
            tags,
            metrics,
            {DOCUMENT: {"schema": 1, "digest": found.digest, "scores": rows}},
        )
        self.note("evaluate", record, {"run": run, "metrics": sorted(metrics)})
        return run

    def scores(self, reference: str) -> list[dict[str, Any]]:
        """Scores of a version, newest last: metric (as it is shown), key (as gates name it), value, low, high, floor, floor_name, gain_low, gain_high, parent, …, source."""
        found, record = self._find(names.parse(reference))
        return of(self, found, record)


def of(
    registry: Reader, found: ModelVersion, record: Record, contents: Mapping[str, bytes] | None = None
) -> list[dict[str, Any]]:
    """All scores of a version; see :meth:`Evaluator.scores`. `contents` has the record of its fine-tuning, where it was read already."""
    store = registry._store  # noqa: SLF001 - the registry's own parts
    if contents is None:
        contents = files.contents(store, found, record, {FINETUNING, CELLS}.__contains__)
    rows = finetuned(contents.get(FINETUNING, b""), contents.get(CELLS, b""))
    for run in store.runs(TASK, {"scfm.digest": found.digest}):
        try:
            with files.workshop(registry.scratch) as folder:
                told = json.loads(store.document(run.run, DOCUMENT, folder).read_text(encoding="utf-8"))
            fine = [row for row in told["scores"] if _is_row(row)]
            own = told.get("digest") == found.digest
        except (ScfmError, OSError, ValueError, KeyError, TypeError, AttributeError):
            # One that somebody deleted, or somebody else's document; what cannot be read says nothing.
            continue
        rows += [{**row, "source": f"run {run.run}"} for row in fine if own]
    # Whatever the metric is called where it is shown, it has one key.
    return [{**row, "key": key(row["metric"])} for row in rows]


def key(metric: str) -> str:
    """Name of a metric by which scores are found, whoever has written it.

    Examples
    --------
    >>> key("macro-F1"), key("macro_f1"), key("Pearson-Δ")
    ('macro_f1', 'macro_f1', 'pearson_δ')
    """
    return re.sub(r"[-\s]", "_", metric.strip().lower())


def _scored_cells(data: str, record: bytes, cells: bytes) -> str:
    """Digest of the cells that a fine-tuning was scored on: those held out, of the data that it was given."""
    import hashlib

    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        test = sorted(map(int, load(cells)["test"]))
    except (SafetensorError, KeyError, ValueError, TypeError):
        # Which they were is not known, and so no other score is on the same.
        test = [int(hashlib.sha256(record).hexdigest(), 16)]
    return f"sha256:{hashlib.sha256(json.dumps([data, test]).encode()).hexdigest()}"


def finetuned(content: bytes, cells: bytes = b"") -> list[dict[str, Any]]:
    """Scores that the record of a fine-tuning holds: the model beside its parent's head alone, and the best floor.

    Parameters
    ----------
    content
        The record.
    cells
        The file that tells which cells were held out: two fine-tunings on the same data may have held out others.
    """
    try:
        record = json.loads(content)
        table = {what: [row for row in record["metrics"] if row["what"] == what] for what in ("model", "head", "floor")}
        (model,) = table["model"]
        digest = _scored_cells(str(record["data"]["digest"]), content, cells)
        remark = " ".join(told for told in map(str, record.get("remarks", ())) if told.startswith(_FLAGGED))
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    found = []
    for metric in _METRICS:
        if not _is_number(model.get(metric)):
            continue
        best: dict[str, Any] = max(
            (row for row in table["floor"] if _is_number(row.get(metric))), key=lambda row: row[metric], default={}
        )
        row = {
            "metric": metric,
            "value": model[metric],
            "low": model.get(f"{metric}_low"),
            "high": model.get(f"{metric}_high"),
            "floor": best.get(metric),
            "floor_name": str(best.get("method", "")),
            "gain_low": best.get(f"{metric}_gain_low"),
            "gain_high": best.get(f"{metric}_gain_high"),
            "parent": table["head"][0].get(metric) if table["head"] else None,
            "n": model.get("n_cells"),
            "units": model.get("units", 0),
            "higher_is_better": True,
            "data_digest": digest,
            "remark": remark,
            "source": FINETUNING,
        }
        found.append(row)
    return found


def flagged(row: Mapping[str, Any]) -> bool:
    """Whether a recorded score was taken on cells of the model's training record, and says nothing."""
    return str(row.get("remark") or "").startswith(_FLAGGED)


def lead(row: Mapping[str, Any]) -> float:
    """How much better than its floor a recorded score is at the worse end, as ``Score.lead`` says it; NaN without a floor."""
    from scfm_lab.evaluation.score import Score

    known: dict[str, Any] = {key: row[key] if _is_number(row.get(key)) else math.nan for key in _NUMBERS}
    return Score(row["metric"], "", **known, higher_is_better=bool(row.get("higher_is_better", True))).lead


def _metric_name(metric: str) -> str:
    """The name as MLflow takes it; the document has the whole one."""
    return re.sub(r"[^\w\-. :/]", "", metric.replace("Δ", "delta"), flags=re.ASCII)


def _row(score: Score, data_digest: str) -> dict[str, Any]:
    if not _is_number(score.value):
        message = f"{score.metric} of {score.model} is no number ({score.missing or score.value}); it was not kept."
        raise ModelError(message)
    numbers = {
        name: getattr(score, name) for name in ("value", "low", "high", "floor", "ceiling", "gain_low", "gain_high")
    }
    return {
        "metric": score.metric,
        **{name: float(value) if _is_number(value) else None for name, value in numbers.items()},
        "floor_name": score.floor_name,
        "n": int(score.n),
        "units": int(score.units),
        "higher_is_better": bool(score.higher_is_better),
        "data_digest": data_digest,
        "remark": score.remark,
    }


def _is_row(row: Mapping[str, Any]) -> bool:
    """Whether a recorded score can be one: somebody else may have written the document."""
    told = [row.get(key) for key in (*_NUMBERS, "parent")]
    return isinstance(row["metric"], str) and _is_number(row["value"]) and all(n is None or _is_number(n) for n in told)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
