"""Where fine-tuned models are kept: found through the plugins' manifests, so that the science knows no registry.

A contribution of kind ``trackers`` names a callable without arguments that gives an object with two methods:

``check(name, model)``
    Raises a :class:`~scfm_lab.errors.ScfmError` if a model fine-tuned from `model` could not be kept under `name`: a
    wrong name, or a parent that is not there. Asked before any work is done.
``register(name, result)``
    Keeps a :class:`~scfm_lab.training.finetune_result.FineTuneResult` and returns something with ``.reference``.

Both are given ``consent=`` where somebody says what the donors of the cells agreed to, and only then.

Leaderboards use three more:

``versions()``
    Sources of all models that give vectors.
``source_of(name)``
    The source of the model that is kept under `name`, else `name` itself.
``record(reference, scores, data_digest=...)``
    Keeps scores as an evaluation of a version, and returns the id of what keeps them.
"""

from __future__ import annotations

from typing import Any

from scfm_lab.errors import ModelError


def tracker() -> Any:
    """The tracker of this installation: the registry's own, else the first that a plugin brings.

    Raises
    ------
    ModelError
        No plugin brings one.
    """
    from scfm_lab.plugins import discover

    found = discover().contributions("trackers")
    if not found:
        raise ModelError("No plugin here keeps fine-tuned models; write them to a folder with result.save(folder).")
    own = [item for item in found if item.plugin == "scfm-registry"]
    return (own or found)[0].load()()


def said(consent: str | None) -> dict[str, str]:
    """Arguments for a tracker that tell what the donors agreed to; none where nobody says anything."""
    return {} if consent is None else {"consent": consent}
