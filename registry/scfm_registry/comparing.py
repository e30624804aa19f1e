"""Comparing versions: the part of a registry that says how two of them differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_registry import first_opening, hardware_tags, names, scores
from scfm_registry.opening import Opener

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_lab.models.contract import Model
    from scfm_registry.comparison import Comparison
    from scfm_registry.version import ModelVersion


class Comparer(Opener):
    """What puts two versions beside each other."""

    def compare(self, a: str, b: str, *, cells: int = 100) -> Comparison:
        """Show how version `b` differs from `a`: records, settings, scores, weights, and vectors of the same real cells.

        Parameters
        ----------
        a, b
            Which versions; they may be of different families, whose weights and cosines mean nothing side by side.
        cells
            How many of the bundled cells both embed; 0: none.

        Returns
        -------
        Comparison
            ``.summary()``, ``.table``, ``.layers``, ``.cells``, ``.plot()``, ``.to_json()``.

        Raises
        ------
        ModelError
            A version is unknown or damaged.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> found = Registry().compare("starter", "pca")
        >>> found.relation
        'of another family (scfm.starter, scfm.pca)'
        """
        from scfm_registry import comparison

        (first, one, here), (second, two, there) = (self._checked(reference) for reference in (a, b))
        told = [self._store_scores(item, record) for item, record in ((first, one), (second, two))]
        remarks: list[str] = []
        models = self._models(first, second, remarks) if cells or _is_partial(here) or _is_partial(there) else None
        return comparison.Comparison(
            a=first,
            b=second,
            relation=comparison.relation(first, second),
            record=comparison.differing(comparison.tags_of(first), comparison.tags_of(second)),
            config=self._settings((first, here), (second, there), remarks),
            metrics=comparison.metrics(told[0], told[1], _measured(first, second)),
            tensors=_weights(first, second, (here, there), models, remarks),
            cells=_vectors(models, cells, remarks),
            remarks=remarks,
        )

    def _checked(self, reference: str) -> tuple[ModelVersion, Any, Path]:
        found, record = self._find(names.parse(reference))
        return found, record, first_opening.ready(self, found, record)[0]

    def _settings(
        self, one: tuple[ModelVersion, Path], two: tuple[ModelVersion, Path], remarks: list[str]
    ) -> dict[str, tuple[Any, Any]]:
        """What differs in the settings: a fine-tuned version has its parent's, and beside another one those of its training."""
        from scfm_registry import comparison

        differ: dict[str, tuple[Any, Any]] = {}
        try:
            differ = comparison.differing(*(comparison.settings_of(self._with_settings(*side)) for side in (one, two)))
        except ModelError as error:
            remarks.append(f"Settings were not compared; those of a fine-tuned version are its parent's: {error}")
        if _is_partial(one[1]) and _is_partial(two[1]):
            differ |= comparison.differing(comparison.tuning_of(one[1]), comparison.tuning_of(two[1]))
        return differ

    def _with_settings(self, item: ModelVersion, folder: Path) -> Path:
        while _is_partial(folder):
            item, record = self.find_digest(item.tags.get("scfm.parent_digest", ""))
            folder, _ = first_opening.ready(self, item, record)
        return folder

    def _store_scores(self, found: ModelVersion, record: Any) -> list[dict[str, Any]]:
        return scores.of(self, found, record)

    def _models(self, a: ModelVersion, b: ModelVersion, remarks: list[str]) -> tuple[Model, Model] | None:
        from scfm_lab.errors import ScfmError

        try:
            return self.open_anyway(a.reference, "cpu", "float32"), self.open_anyway(b.reference, "cpu", "float32")
        except ScfmError as error:
            remarks.append(f"Vectors were not compared: {error}")
            return None


def _is_partial(folder: Path) -> bool:
    """Whether a version holds only what changed from its parent."""
    return (folder / scores.FINETUNING).exists()


def _measured(a: ModelVersion, b: ModelVersion) -> list[tuple[str, Any, Any]]:
    rows: list[tuple[str, Any, Any]] = []
    for device in hardware_tags.DEVICES:
        if any(item.tags.get(f"scfm.mem.{device}.source") != "measured" for item in (a, b)):
            continue
        for words, what in (("peak MiB", "mem"), ("best cells per minute", "speed")):
            one, two = (hardware_tags.number(item.tags, what, device) for item in (a, b))
            if one is not None and two is not None:
                rows.append((f"{words} on {device.upper()} (measured)", one, two))
    return rows


def _weights(
    a: ModelVersion,
    b: ModelVersion,
    folders: tuple[Path, Path],
    models: tuple[Model, Model] | None,
    remarks: list[str],
) -> Any:
    from scfm_registry import tensors

    families = (models[0].spec.family, models[1].spec.family) if models else (a.family, b.family)
    nothing = tensors.moved({}, {})
    if families[0] != families[1]:
        remarks.append(f"Weights are not comparable: {families[0]} and {families[1]} are different families.")
        return nothing
    if any(map(_is_partial, folders)):
        # A fine-tuned version keeps what changed; the whole network is there once it is opened.
        return nothing if models is None else tensors.moved(tensors.opened(models[0]), tensors.opened(models[1]))
    return tensors.moved(tensors.Tensors(folders[0]), tensors.Tensors(folders[1]))


def _vectors(models: tuple[Model, Model] | None, cells: int, remarks: list[str]) -> Any:
    import numpy as np

    from scfm_lab.errors import ScfmError
    from scfm_registry import comparison, panel

    nothing = comparison.vectors(np.zeros((0, 1)), np.zeros((0, 1)), [], comparable=False)
    if models is None or not cells:
        return nothing
    data = panel.cells(cells)
    try:
        first, second = (model.encode(model.tokenize(data)).cell for model in models)
    except ScfmError as error:
        remarks.append(f"Vectors were not compared: {error}")
        return nothing
    same = models[0].spec.family == models[1].spec.family and first.shape[1] == second.shape[1]
    if not same:
        remarks.append("A cell's two vectors are not comparable number by number; its neighbours are.")
    return comparison.vectors(first, second, list(map(str, data.obs_names)), comparable=same)
