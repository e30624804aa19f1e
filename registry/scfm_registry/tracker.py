"""How ``sl.finetune(…, register=…)`` reaches the registry that the environment names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scfm_lab.models.contract import Model
    from scfm_registry.version import ModelVersion


class Tracker:
    """Keeps fine-tuned models as versions; see :mod:`scfm_lab.training.tracking`."""

    def check(self, name: str, model: Model) -> None:
        """Refuse a name that cannot be given, and a parent that is not in the registry.

        Raises
        ------
        ModelError
            One of them.
        """
        registry = self._registry()
        registry.check_new_name(name)
        registry.parent_of(model)

    def register(self, name: str, result: Any) -> ModelVersion:
        """Register what :func:`scfm_lab.finetune` gave."""
        found: ModelVersion = self._registry().register(result, name)
        return found

    @staticmethod
    def _registry() -> Any:
        from scfm_registry.source import environment

        return environment()
