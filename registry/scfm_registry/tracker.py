"""How ``sl.finetune(…, register=…)`` reaches the registry that the environment names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_registry import annotating

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_lab.evaluation.score import Score
    from scfm_lab.models.contract import Model
    from scfm_registry.version import ModelVersion


class Tracker:
    """Keeps fine-tuned models as versions; see :mod:`scfm_lab.training.tracking`."""

    def check(self, name: str, model: Model, consent: str | None = None) -> None:
        """Refuse a name or a consent that cannot be given, and a parent that is not in the registry.

        Raises
        ------
        ModelError
            One of them.
        """
        registry = self._registry()
        annotating.consented(consent)
        registry.check_new_name(name)
        registry.parent_of(model)

    def register(self, name: str, result: Any, consent: str | None = None) -> ModelVersion:
        """Register what :func:`scfm_lab.finetune` gave."""
        found: ModelVersion = self._registry().register(result, name, consent=consent)
        return found

    def versions(self) -> list[str]:
        """Give the source of every model that gives vectors: its champion, else its newest version."""
        return [item.uri for item in self._registry().search(can="embed") if not item.retracted]

    def source_of(self, name: str) -> str:
        """Give the source of the model that is registered under `name`, else `name` itself."""
        try:
            return str(self._registry().get(name).uri)
        except ModelError:
            return name

    def record(self, reference: str, scores: Iterable[Score], *, data_digest: str) -> str:
        """Keep scores as an evaluation of a version; returns the id of the run."""
        return str(self._registry().record_scores(reference, scores, data_digest=data_digest))

    @staticmethod
    def _registry() -> Any:
        from scfm_registry.source import environment

        return environment()
