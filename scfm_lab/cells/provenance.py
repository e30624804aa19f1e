"""Write results into an AnnData under new keys, with where they came from beside them."""

from __future__ import annotations

import json
import platform
from functools import cache
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

    from scfm_lab.models.contract import Model

UNS = "scfm"


_PACKAGES = ("scfm-lab", "torch", "numpy", "scipy", "anndata", "scanpy", "scikit-learn")


def package_versions(*more: str) -> dict[str, str]:
    """Versions of the packages that decide a result's numbers, and of others by their names."""
    return dict(_versions(more))


@cache
def _versions(more: tuple[str, ...]) -> dict[str, str]:
    # Looked up once: what this process has imported stays as it is, and reading the folders of packages takes long.
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *more):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def of_model(model: Model, **more: Any) -> dict[str, Any]:
    """The part of a provenance record that names the model."""
    return {
        "model": model.spec.name,
        "family": model.spec.family,
        "version": model.version,
        "source": model.source,
        "weights_sha256": model.digest,
        "settings_sha256": model.settings_digest,
        "device": model.device,
        "precision": model.precision,
        "determinism": model.spec.determinism,
        **({"heads": model.spec.heads} if model.spec.heads else {}),
        "licence": model.spec.licence,
        "citation": model.spec.citation,
        "packages": package_versions(),
        # Options that say what the cells are, and not how a vector is made.
        **({"options_of_cells": told} if (told := of_cells(model)) else {}),
        # Whoever scores these vectors later has a training record to look into.
        **({"config": dict(config)} if (config := (getattr(model, "opened", None) or {}).get("config")) else {}),
        # As one text: it comes back from a file as it was, and with it the model can be opened in the same way.
        **({"asked": json.dumps(dict(asked), default=str)} if (asked := getattr(model, "asked", None)) else {}),
        **({"finetuned": True} if getattr(model, "finetuning", None) is not None else {}),
        **({"cells_on_record": True} if getattr(model, "learnt_from", ()) else {}),
        **more,
    }


def of_scores(
    models: Mapping[str, Model], *, task: str, options: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """A provenance record of scores of several models, each by what it is called beside the others.

    ``model`` is all of their names, so that scores of one model are not written over those of another.

    Parameters
    ----------
    models
        What each is called → the opened model.
    options
        What the models were given to read the cells.
    more
        What else the numbers depend on; what is None is left out.
    """
    return {
        "task": task,
        "model": "_".join(models),
        "models": {name: of_model(m, options=m.check_options(options)) for name, m in models.items()},
        "packages": package_versions(),
        **{name: value for name, value in more.items() if value is not None},
    }


def of_vectors(
    made: Mapping[str, Mapping[str, Any]], *, task: str, packages: Sequence[str] = (), **more: Any
) -> dict[str, Any]:
    """As :func:`of_scores`, of scores of vectors in ``obsm``: ``models`` has how each was made, as far as that is known.

    Parameters
    ----------
    made
        Key in ``obsm`` → the provenance of what lies there; empty where it has none.
    packages
        Others that the numbers depend on.
    """
    return {
        "task": task,
        "model": "_".join(made),
        "models": {name: dict(entry) for name, entry in made.items()},
        "packages": package_versions(*packages),
        **{name: value for name, value in more.items() if value is not None},
    }


def of_cells(model: Model) -> list[str]:
    """Options of a model that say what the cells are (their species, their assay)."""
    return sorted(name for name, option in model.spec.options.items() if option.of_cells)


def arguments(**given: Any) -> dict[str, Any]:
    """What a call was given besides its cells and its model, so that it can be made again; what was left open is left out."""
    return {
        name: dict(value) if hasattr(value, "keys") else value
        for name, value in given.items()
        if value is not None and not (hasattr(value, "__len__") and len(value) == 0)
    }


def rule(model: Model, options: Mapping[str, Any], seed: int) -> str:
    """The rule behind a result's choices: the model's own or its reference's, the seed where chance has a part, and options."""
    own = model.spec.options
    if options.get("like_reference"):
        told = f"as the reference implementation chooses, seed {seed}"
    else:
        told = model.spec.determinism
        drawn = any(options.get(name) for name, option in own.items() if option.draws)
        told += "" if told.startswith("no chance") and not drawn else f"; seed {seed}"
    changed = [f"{k}={v!r}" for k, v in options.items() if k in own and k != "like_reference" and v != own[k].default]
    return told + (f"; options {', '.join(changed)}" if changed else "")


def other_rules(adata: AnnData, key: str, family: str, rule: str) -> list[str]:
    """A sentence for the user where other vectors of this family here were made by another rule; else nothing.

    Their distances to each other say something about the rules, and not only about the cells.
    """
    others = [
        str(name)
        for name, entry in adata.uns.get(UNS, {}).items()
        if name != key
        and entry.get("slot") == "obsm"
        and entry.get("family") == family
        and str(entry.get("rule", rule)) != rule
        and name in adata.obsm
    ]
    if not others:
        return []
    names = ", ".join(f"obsm[{name!r}]" for name in others)
    return [
        f"obsm[{key!r}] and {names} are vectors of {family} made by different rules (uns['scfm'][…]['rule']); do not compare "
        "cells between them, and embed again by one rule where you need to."
    ]


#: What a record tells of settings that a call does not name, and what they are called.
_SETTINGS = {"settings_sha256": "what the model was opened with", "precision": "precision"}


def other_settings(adata: AnnData, key: str, record: Mapping[str, Any]) -> list[str]:
    """Sentences for the user where vectors of the same weights, by the same rule, were made here with other settings.

    Another layer or pooling is asked for where it is meant; what a model was opened with, and its precision, no call shows.

    Parameters
    ----------
    key
        Key in ``obsm`` that is about to be written.
    record
        Its provenance.
    """
    found: list[str] = []
    weights, rule = str(record.get("weights_sha256", "")), str(record.get("rule", ""))
    for name, entry in adata.uns.get(UNS, {}).items():
        written = name != key and entry.get("slot") == "obsm" and name in adata.obsm
        # Of another rule is said by `other_rules`.
        if not (written and weights and entry.get("weights_sha256") == weights and entry.get("rule") == rule):
            continue
        differ = []
        for what, called in _SETTINGS.items():
            here, there = str(record.get(what) or ""), str(entry.get(what) or "")
            if here and there and here != there:
                differ.append(f"{called}: {here} and {there}" if what == "precision" else called)
        if differ:
            found.append(
                f"obsm[{key!r}] and obsm[{str(name)!r}] are vectors of the same weights of {record['model']} made with other "
                f"settings ({'; '.join(differ)}); do not compare cells between them, and embed again with one of them where you "
                "need to."
            )
    return found


def free_key(adata: AnnData, slot: str, key: str, *, given: bool) -> str:
    """A key of ``obs``, ``obsm``, … that can be written without harm.

    A key that scfm-lab wrote to the same slot before (it stands in the provenance) is
    written anew. One that holds something else is never overwritten: a given key is
    refused, a default one gets a number. A key that scfm-lab has in another slot is
    taken too, since a key has one provenance.

    Raises
    ------
    DataError
        If `key` was `given` by the user and holds something else, or nothing can be written (:func:`check_writable`).
    """
    check_writable(adata)
    fault = _taken(adata, slot, key)
    if fault is None:
        return key
    if given:
        raise DataError(f"{fault}; choose another key_added.")
    number = 2
    while _taken(adata, slot, f"{key}_{number}"):
        number += 1
    return f"{key}_{number}"


def check_writable(adata: AnnData) -> None:
    """Refuse a view of a backed AnnData, into which anndata writes nothing.

    Raises
    ------
    DataError
        It is one.
    """
    if getattr(adata, "isbacked", False) and getattr(adata, "is_view", False):
        raise DataError(
            "Results cannot be written into a view of a backed AnnData; give the backed AnnData itself, or bring the cells "
            "into memory first (adata.to_memory())."
        )


def _taken(adata: AnnData, slot: str, key: str) -> str | None:
    """What stands in the way of writing a key, in words; None where nothing does."""
    entry = adata.uns.get(UNS, {}).get(key)
    if entry is None:
        return f"{slot}[{key!r}] holds something that scfm-lab did not write" if key in getattr(adata, slot) else None
    where = str(entry.get("slot", slot))
    return None if where == slot else f"scfm-lab wrote {where}[{key!r}] before, and keeps one provenance for a key"


def record(adata: AnnData, key: str, provenance: dict[str, Any], *, slot: str = "") -> None:
    """Put a provenance record at ``uns["scfm"][key]``, with the slot (``obs``, ``obsm``, …) that holds the key."""
    entries = dict(adata.uns.get(UNS, {}))
    entries[key] = storable({**provenance, "slot": slot} if slot else provenance)
    adata.uns[UNS] = entries


def write_table(adata: AnnData, table: pd.DataFrame, key: str, told: dict[str, Any], given: bool) -> None:
    """Write a table to ``uns`` under a key that is free, and its provenance (`told`) to ``uns["scfm"]``."""
    key = free_key(adata, "uns", key, given=given)
    adata.uns[key] = table.reset_index(drop=True).rename(index=str)
    record(adata, key, told, slot="uns")


def key_of_models(adata: AnnData, key: str, told: dict[str, Any]) -> str:
    """A key, numbered where a result of other models that are called alike stands under it."""
    entries = adata.uns.get(UNS, {})
    own, found, number = _weights(storable(told)), key, 1
    while found in entries and _weights(entries[found]) != own:
        number += 1
        found = f"{key}_{number}"
    return found


def _weights(entry: Mapping[str, Any]) -> dict[str, str]:
    """Digest of the weights of every model that a record names."""
    models: Any = entry.get("models")
    named = models if hasattr(models, "items") else {"": entry}
    return {str(name): str(dict(one).get("weights_sha256", "")) for name, one in named.items()}


def is_imputed(adata: AnnData, key: str | None) -> bool:
    """Whether ``layers[key]`` or ``obsm[key]`` holds what a model predicted (marked so in its provenance)."""
    entry = adata.uns.get(UNS, {}).get(key, {}) if key else {}
    return bool(dict(entry).get("imputed", False))


def refuse_imputed(adata: AnnData, key: str | None, *, what: str) -> None:
    """Refuse predicted values where measured ones are needed: differential expression, regulators, trends.

    Parameters
    ----------
    key
        The layer that was named; None is never imputed, as counts are then looked for.
    what
        What was asked for, the subject of the sentence.

    Raises
    ------
    DataError
        If the layer is marked as imputed.
    """
    if is_imputed(adata, key):
        raise DataError(
            f"{what} must not be made of {key!r}: scfm-lab wrote it as a model's predictions, which are smooth by construction, "
            "so that tests on them find what the model assumes. Name the layer with the measured counts."
        )


def storable(value: Any) -> Any:
    """A value as HDF5 can hold it: no None, no tuples, string keys without slashes."""
    import numpy as np

    if value is None:
        return ""
    if isinstance(value, dict):
        return {str(k).replace("/", "|"): storable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
        return np.array([str(v) for v in items], dtype=object) if items else ""
    if isinstance(value, (str, int, float, bool, np.generic, np.ndarray)):
        return value
    return str(value)
