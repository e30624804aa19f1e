"""What models are called beside each other: two versions of one model share its name, and are not one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_lab.models.contract import Model


class Identity(NamedTuple):
    """What tells a model from others."""

    name: str
    version: str = ""
    """In a registry or of a plugin; empty where it has none."""
    digest: str = ""
    """Of the weights."""
    settings: str = ""
    """Digest of what it was opened with besides."""

    @classmethod
    def of(cls, model: Model) -> Identity:
        """Of an opened model."""
        return cls(model.name, model.version, model.digest, model.settings_digest)


def told_apart(models: Iterable[Identity]) -> dict[Identity, str]:
    """What each of several models is called: its name, or where names are shared its version, or name and end of its digest.

    Examples
    --------
    >>> from scfm_lab.evaluation.naming import Identity, told_apart
    >>> list(told_apart([Identity("pca", "pca/1"), Identity("pca", "pca/2"), Identity("sctop")]).values())
    ['pca/1', 'pca/2', 'sctop']
    """
    known = {model: _names(model) for model in models}
    called = {}
    for model, names in known.items():
        taken = {name for other, theirs in known.items() if other != model for name in theirs}
        called[model] = next((name for name in names if name not in taken), names[-1])
    return called


def on_record(models: Iterable[Identity]) -> dict[str, dict[str, str]]:
    """What each of several models is called → its name, version, and digests of its weights and settings, for a provenance."""
    return {
        called: {
            "model": one.name,
            "version": one.version,
            "weights_sha256": one.digest,
            "settings_sha256": one.settings,
        }
        for one, called in told_apart(models).items()
    }


def _names(model: Identity) -> list[str]:
    """From the shortest to the one that tells it from all others."""
    # What is fitted and in no registry has a word for a version.
    reference = model.version if "/" in model.version else model.name
    weights = f"{reference} {model.digest[-8:]}"
    return [model.name, reference, weights, f"{weights} {model.settings[-8:]}"]


def named(models: Iterable[Model]) -> dict[str, Model]:
    """Opened models by what they are called, in their order; see :func:`told_apart`. One that is given twice is one."""
    found = {Identity.of(model): model for model in models}
    called = told_apart(found)
    return {called[identity]: model for identity, model in found.items()}
