"""What a plugin's manifest may say, and the check that it says it right.

A manifest is data: reading and checking one runs no code of its plugin. A fault is described in words, names the place in
the file, and costs only what it touches: one wrong entry leaves the plugin's other entries in use, while a manifest whose
head is wrong (schema, API range, name) contributes nothing at all.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Version of the plugin interface that this scfm-lab offers; a manifest's ``requires_api`` is compared with it.
API_VERSION = "1.0"
#: Version of the manifest's own layout.
SCHEMA_VERSION = 1

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LOCAL_ID = re.compile(r"[a-z0-9][a-z0-9_-]*")
_OBJECT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_PREFIX = re.compile(r"[a-z][a-z0-9+.-]*:/?")
_COMMAND = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_TEXT = "a text"
_TEXTS = "a list of texts"
_NUMBER = "a number that is not negative"
_FLAG = "true or false"
_TABLE = "a table"
_INSIDE = "a path inside the package"
_OBJECT_REF = 'an object reference such as "my_package.module:Name"'


@dataclass(frozen=True)
class Kind:
    """One kind of contribution: the key that names its object, and the keys its entries may hold."""

    name: str
    target: str
    keys: dict[str, str]
    required: tuple[str, ...] = ()
    #: Keys whose value may be claimed by one contribution only, whatever its plugin (a command's name, say).
    unique: tuple[str, ...] = ()


_COMMON = {"id": _TEXT, "title": _TEXT, "description": _TEXT}

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "models",
            "adapter",
            {
                "tasks": _TEXTS,
                "gene_ids": _TEXT,
                "organisms": _TEXTS,
                "family": _TEXT,
                "licence": _TEXT,
                "citation": _TEXT,
                "url": _TEXT,
                "commercial": _FLAG,
                "parameters": _NUMBER,
                "parameter_free": _FLAG,
                "files": _TEXTS,
                # Folder of the weights inside the plugin's package, for models that ship with theirs.
                "weights": _INSIDE,
                # A family whose weights the user brings.
                "needs_files": _FLAG,
                "needs": _TABLE,
            },
        ),
        Kind("sources", "loader", {"prefix": _TEXT}, required=("prefix",), unique=("prefix",)),
        Kind(
            "datasets",
            "loader",
            {"organism": _TEXT, "cells": _NUMBER, "genes": _NUMBER, "licence": _TEXT, "citation": _TEXT, "url": _TEXT},
        ),
        Kind("commands", "loader", {"name": _TEXT, "help": _TEXT}, required=("name", "help"), unique=("name",)),
        Kind("panels", "factory", {"slot": _TEXT, "reads": _TEXTS}),
        Kind("scorers", "loader", {"reads": _TEXTS, "better": _TEXT}),
        Kind("trackers", "loader", {}),
    )
}

_NEEDS = {"ram_gb": _NUMBER, "vram_gb": _NUMBER, "disk_gb": _NUMBER, "cpu_ok": _FLAG}
_HEAD = {"schema_version", "requires_api", "name", "title", "description", "url", "checks"}
#: What [checks] may name: the report of `scfm-lab doctor`, and the kit that proves contributions of a kind, which comes from
#: the package that hosts them.
_CHECKS = ("doctor", *KINDS)


@dataclass
class Manifest:
    """A manifest as read: its name, the entries that are right, and what is wrong with the rest.

    Attributes
    ----------
    name
        The plugin's name, or ``None`` where the file does not give a usable one.
    entries
        Pairs of (kind, entry) that passed the check, in the order of the file.
    checks
        Object references of the table ``[checks]``, by what they check.
    faults
        What is wrong, one sentence each. A faulty entry is not in `entries`.
    notes
        What is suspicious but harmless: keys this version does not know.
    """

    name: str | None = None
    entries: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    checks: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(path: Path) -> Manifest:
    """Read and check the manifest at `path`; what is wrong is in ``.faults``, nothing is raised for a bad file."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        return Manifest(faults=[f"{path.name} is not valid TOML: {error}"])
    except UnicodeDecodeError:
        return Manifest(faults=[f"{path.name} is not UTF-8 text"])
    except OSError as error:
        return Manifest(faults=[f"{path.name} cannot be read: {error.strerror or error}"])
    return check(raw, path.name)


def check(raw: dict[str, Any], file: str = "scfm.toml") -> Manifest:
    """Check a parsed manifest against the schema.

    Parameters
    ----------
    raw
        The TOML document as a dictionary.
    file
        The name by which messages call the file.
    """
    manifest = Manifest()
    _check_head(raw, file, manifest)
    if manifest.faults:
        return manifest
    _check_checks(raw.get("checks", {}), file, manifest)
    seen: set[str] = set()
    for key, value in raw.items():
        if key in _HEAD:
            continue
        if key not in KINDS:
            manifest.notes.append(f"{file}: unknown key '{key}'{_nearest(key, [*KINDS, *_HEAD])}")
            continue
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            manifest.faults.append(f"{file}: '{key}' must be written as [[{key}]] tables")
            continue
        for number, entry in enumerate(value, start=1):
            where = f"{file}: [[{key}]] number {number}"
            if isinstance(entry.get("id"), str):
                where += f" ({entry['id']})"
            faults = _check_entry(KINDS[key], entry, where, manifest)
            if not faults and entry["id"] in seen:
                faults = [f"{where}: the id is given twice in this manifest; the first one is used"]
            manifest.faults.extend(faults)
            if not faults:
                seen.add(entry["id"])
                manifest.entries.append((key, dict(entry)))
    return manifest


def _check_head(raw: dict[str, Any], file: str, manifest: Manifest) -> None:
    """Check what stands above the entries: the layout's version, the range of API versions, the plugin's name."""
    name = raw.get("name")
    if isinstance(name, str) and _NAME.fullmatch(name):
        manifest.name = name
    else:
        manifest.faults.append(
            f"{file}: 'name' must be a plugin name in lower case such as \"my-fm\"; it is {_shown(raw, 'name')}"
        )
    version = raw.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        manifest.faults.append(
            f"{file}: 'schema_version' must be {SCHEMA_VERSION} (the layout this scfm-lab reads); "
            f"it is {_shown(raw, 'schema_version')}"
        )
    fault = _api_fault(raw)
    if fault:
        manifest.faults.append(f"{file}: {fault}")


def _check_checks(table: object, file: str, manifest: Manifest) -> None:
    """Check the table ``[checks]`` and keep what is right of it."""
    if not isinstance(table, dict):
        manifest.faults.append(f"{file}: 'checks' must be written as a [checks] table")
        return
    for key, value in table.items():
        if key not in _CHECKS:
            manifest.notes.append(f"{file}: unknown key 'checks.{key}'{_nearest(key, _CHECKS)}")
        elif not _is(value, _OBJECT_REF):
            manifest.faults.append(f"{file}: 'checks.{key}' must be {_OBJECT_REF}; it is {value!r}")
        else:
            manifest.checks[key] = value


def _api_fault(raw: dict[str, Any]) -> str | None:
    """Say why ``requires_api`` excludes this scfm-lab, or ``None`` where it does not."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    wanted = raw.get("requires_api")
    if not isinstance(wanted, str):
        return f"'requires_api' must be a version range such as \">=1,<2\"; it is {_shown(raw, 'requires_api')}"
    try:
        accepted = SpecifierSet(wanted).contains(API_VERSION)
    except InvalidSpecifier:
        return f'\'requires_api\' = "{wanted}" is not a version range; write one such as ">=1,<2"'
    if not accepted:
        return (
            f"it requires plugin API {wanted}, and this scfm-lab offers {API_VERSION}; "
            "install a version of the plugin, or of scfm-lab, that fits"
        )
    return None


def _check_entry(kind: Kind, entry: dict[str, Any], where: str, manifest: Manifest) -> list[str]:
    """Check one entry; return its faults and put unknown keys among the manifest's notes."""
    expected = {**_COMMON, **kind.keys, kind.target: _OBJECT_REF}
    faults = [f"{where}: '{key}' is missing" for key in ("id", kind.target, *kind.required) if key not in entry]
    for key, value in entry.items():
        if key not in expected:
            manifest.notes.append(f"{where}: unknown key '{key}'{_nearest(key, expected)}")
        elif not _is(value, expected[key]):
            faults.append(f"{where}: '{key}' must be {expected[key]}; it is {value!r}")
    faults.extend(_check_form(kind, entry, where, manifest))
    return faults


def _check_form(kind: Kind, entry: dict[str, Any], where: str, manifest: Manifest) -> list[str]:
    """Check what a type alone does not tell: the form of ids, prefixes and command names, and the table of needs."""
    faults = []
    identifier = entry.get("id")
    if isinstance(identifier, str):
        plugin, dot, local = identifier.partition(".")
        if not dot or plugin != manifest.name or not _LOCAL_ID.fullmatch(local):
            faults.append(f"{where}: the id must be \"{manifest.name}.<name>\" in lower case; it is '{identifier}'")
    prefix = entry.get("prefix")
    if kind.name == "sources" and isinstance(prefix, str) and not _PREFIX.fullmatch(prefix):
        faults.append(f"{where}: 'prefix' must look like \"models:\"; it is '{prefix}'")
    command = entry.get("name")
    if kind.name == "commands" and isinstance(command, str) and not _COMMAND.fullmatch(command):
        faults.append(f"{where}: 'name' must be a command's name in lower case; it is '{command}'")
    needs = entry.get("needs")
    if isinstance(needs, dict):
        for key, value in needs.items():
            if key not in _NEEDS:
                manifest.notes.append(f"{where}: unknown key 'needs.{key}'{_nearest(key, _NEEDS)}")
            elif not _is(value, _NEEDS[key]):
                faults.append(f"{where}: 'needs.{key}' must be {_NEEDS[key]}; it is {value!r}")
    return faults


def _is(value: object, expected: str) -> bool:
    if expected == _TEXT:
        return isinstance(value, str) and bool(value.strip())
    if expected == _TEXTS:
        return isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    if expected == _NUMBER:
        # TOML has inf and nan; neither is an amount. bool is an int to Python, and not to a reader.
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if expected == _FLAG:
        return isinstance(value, bool)
    if expected == _TABLE:
        return isinstance(value, dict)
    if expected == _INSIDE:
        return isinstance(value, str) and bool(value) and value[0] not in "/~" and ".." not in re.split(r"[/\\]", value)
    return isinstance(value, str) and _OBJECT.fullmatch(value) is not None


def _shown(raw: dict[str, Any], key: str) -> str:
    return repr(raw[key]) if key in raw else "missing"


def _nearest(word: str, known: Iterable[str]) -> str:
    hits = nearest(word, known, n=1)
    return f"; did you mean '{hits[0]}'?" if hits else ""
