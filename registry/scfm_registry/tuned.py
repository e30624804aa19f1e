"""Fine-tuned models that come in as files: what they were made from is found here, and what their record tells stands in tags."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_lab.models import finetuned
from scfm_registry import builtin, files, manifest, names, version

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scfm_registry.reading import Reader
    from scfm_registry.version import ModelVersion

KIND = "fine-tuned"
_LONGEST = 200


def settle(registry: Reader, folder: Path, path: Path) -> tuple[ModelVersion | None, dict[str, dict[str, str]]]:
    """Find the version that a fine-tuned model was made from, and have the record in `folder` name it by its digest.

    Parameters
    ----------
    registry
        Where it is looked for.
    folder
        A private copy of the files; nothing happens where they are no fine-tuned model.
    path
        Where they came from, for messages.

    Returns
    -------
    ModelVersion or None
        What it was made from, where that is here.
    dict
        Checked files that it opens with, as of :func:`scfm_registry.sharing.parents.places`; none where it is kept whole.

    Raises
    ------
    ModelError
        It is kept as what changed beside a version that is not here, or its record contradicts that version.
    """
    from scfm_registry.sharing import parents

    if not finetuned.is_finetuned(folder):
        return None, {}
    record = finetuned.read_record(folder)
    told, whole = record["parent"], record.get("storage") == "full"
    base = recorded(registry, told)
    if base is None:
        if whole:
            return None, {}
        name = str(told.get("reference") or told.get("source") or told["family"])[:200]
        message = (
            f"{path} was fine-tuned from {name!r}, which is not in this registry; import that version first, or save the model "
            "with everything in it (save(…, full=True))."
        )
        raise ModelError(message)
    if base.family != told["family"]:
        message = (
            f"{path / finetuned.RECORD} says that it is of the family {told['family'][:80]!r}, and {base.reference}, which it was "
            f"made from, is of {base.family!r}; get the file again."
        )
        raise ModelError(message)
    if not told["digest"]:
        told |= {"digest": base.digest, "reference": base.reference, "source": base.uri}
        (folder / finetuned.RECORD).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if whole:
        return base, {}
    found, known = registry.find_digest(base.digest)
    store = registry._store  # noqa: SLF001 - the registry's own parts
    own = {found.digest: {"folder": str(files.checked(store, found, known)), "family": found.family}}
    return base, own | parents.places(registry, found, known)


def recorded(registry: Reader, told: Mapping[str, Any]) -> ModelVersion | None:
    """The version that a record's parent is: by its digest, else by its weights, else by the name of a built-in model."""
    if told["digest"]:
        if not manifest.is_digest(told["digest"]):
            return None
        with suppress(ModelError):
            return registry.find_digest(told["digest"])[0]
        return None
    weights = str(told.get("weights", ""))
    if manifest.is_digest(weights):
        known = registry._read(registry._store.records(tags={"scfm.weights": weights}))  # noqa: SLF001 - as above
        if known:
            return min(known, key=lambda item: item.created)
    name = str(told.get("source", ""))
    if name in builtin.shipped():
        with suppress(ModelError):
            return registry._find(names.parse(name))[0]  # noqa: SLF001 - as above
    return None


def terms(base: ModelVersion | None, told: dict[str, str]) -> dict[str, str]:
    """Tags of what was made of a version: whoever may use that version may use it, where its own files and licence allow it.

    Parameters
    ----------
    base
        What it was made from, where that is here.
    told
        Its tags, as its own files have them.
    """
    if base is None:
        return told
    allowed = {True: "true", False: "false", None: ""}[base.commercial]
    said = version.strictest(told.get("scfm.commercial", ""), allowed)
    return {key: value for key, value in (told | {"scfm.commercial": said}).items() if value}


def tags(record: Mapping[str, Any]) -> dict[str, str]:
    """What the record of a training tells of a version, as tags; it may be anybody's, and what cannot be is left out.

    Examples
    --------
    >>> tags({"who": "ana", "when": "2026-03-01T12:00:00+00:00", "data": {"digest": "none"}})
    {'scfm.by': 'ana', 'scfm.made': '2026-03-01T12:00:00+00:00'}
    """
    names = _part(record, "labels").get("names")
    data = _part(record, "data").get("digest")
    told = {
        "scfm.data_digest": data if isinstance(data, str) and manifest.is_digest(data) else "",
        "scfm.labels": str(len(names)) if isinstance(names, list) and names else "",
        "scfm.by": record.get("who"),
        "scfm.code": _code(_part(record, "code")),
        "scfm.made": _time(record.get("when")),
    }
    return {
        key: value
        for key, value in told.items()
        if isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()
    }


def _part(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = record.get(key)
    return part if isinstance(part, dict) else {}


def _code(code: Mapping[str, Any]) -> str:
    if not code.get("scfm-lab"):
        return ""
    commit = str(code.get("commit", ""))[:12]
    changed = ", changed" if code.get("changed") else ""
    return f"scfm-lab {code['scfm-lab']}{f' ({commit}{changed})' if commit else ''}"


def _time(when: Any) -> str:
    try:
        datetime.fromisoformat(when)
    except (TypeError, ValueError):
        return ""
    return str(when)
