"""``hf://ORG/REPO[@REVISION][/FOLDER]``: what a repository of the Hugging Face Hub, or of a mirror of it, holds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from scfm_lab.errors import ModelError
from scfm_registry import importing, licences, manifest
from scfm_registry.sharing.addresses import shown
from scfm_registry.sharing.downloading import Client, Wanted

if TYPE_CHECKING:
    from scfm_registry.sharing.addresses import Policy

PREFIX = "hf://"
#: Names the hub's address where it is a mirror, as the hub's own tools have it.
ENDPOINT_VARIABLE = "HF_ENDPOINT"
ENDPOINT = "https://huggingface.co"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PAGES = 100


@dataclass(frozen=True)
class Repository:
    """A place on the hub: a repository, a state of it, and a folder or pattern of files in it."""

    owner: str
    name: str
    revision: str = "main"
    inside: str = ""

    @classmethod
    def parse(cls, address: str) -> Repository:
        """Read ``hf://ORG/REPO[@REVISION][/FOLDER]``.

        Raises
        ------
        ModelError
            It is not written so.
        """
        parts = address.removeprefix(PREFIX).split("/", 2)
        owner, name, inside = parts[0], parts[1] if len(parts) > 1 else "", parts[2] if len(parts) > 2 else ""
        name, at, revision = name.partition("@")
        revision, inside = unquote(revision) if at else "main", inside.rstrip("/")
        good = _NAME.fullmatch(owner) and _NAME.fullmatch(name) and _REVISION.fullmatch(revision)
        if not good or ".." in revision or (inside and not manifest.is_safe(inside)):
            raise ModelError(
                f"{shown(address)} names no repository; write it like hf://ctheodoris/Geneformer/Geneformer-V1-10M, or "
                "hf://ORG/REPO@REVISION/FOLDER."
            )
        return cls(owner, name, revision, inside)

    def __str__(self) -> str:
        revision = "" if self.revision == "main" else f"@{self.revision}"
        return f"{PREFIX}{self.owner}/{self.name}{revision}" + (f"/{self.inside}" if self.inside else "")

    @property
    def folder(self) -> str:
        """The folder that is meant, without a pattern of files."""
        return self.inside if not _is_pattern(self.inside) else str(PurePosixPath(self.inside).parent).strip(".")


def endpoint() -> str:
    """The hub's address: ``HF_ENDPOINT``, else Hugging Face's own."""
    return (os.environ.get(ENDPOINT_VARIABLE, "").strip() or ENDPOINT).rstrip("/")


def client(policy: Policy) -> Client:
    """What speaks to the hub: with ``HF_TOKEN``, where it is set, which is shown to the hub's own host and to nobody else."""
    return Client(policy, token=os.environ.get("HF_TOKEN", "").strip(), token_host=urlsplit(endpoint()).netloc)


@dataclass(frozen=True)
class Listing:
    """What a place on the hub holds at one commit.

    Attributes
    ----------
    commit
        Which.
    files
        What a version can be made of, by path in the repository.
    left_out
        What it cannot: code, pictures, the state of a training, other formats of the same weights.
    licence
        The one that the repository's card names; empty where it names none.
    """

    commit: str
    files: list[Wanted]
    left_out: list[str]
    licence: str = ""


def listing(speaker: Client, asked: Repository) -> Listing:
    """List the files of a place on the hub that a version can be made of, each with its hash, at one fixed commit.

    Parameters
    ----------
    speaker
        From :func:`client`.
    asked
        The place. Folders below it that hold a checkpoint of their own are left out.

    Raises
    ------
    ModelError
        The repository, revision or folder is not there, or not for everybody.
    """
    base = f"{endpoint()}/api/models/{quote(asked.owner)}/{quote(asked.name)}"
    told, _ = speaker.document(f"{base}/revision/{quote(asked.revision, safe='')}")
    commit = told.get("sha") if isinstance(told, dict) else None
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise ModelError(f"{shown(base)} does not say which commit {asked.revision} is; is {ENDPOINT_VARIABLE} right?")
    entries = _entries(speaker, f"{base}/tree/{commit}" + (f"/{quote(asked.folder)}" if asked.folder else ""))
    chosen, left_out = _chosen(entries, asked)
    if not chosen:
        raise ModelError(f"{asked} holds no files that a checkpoint is made of. Check the folder's name.")
    root = f"{endpoint()}/{quote(asked.owner)}/{quote(asked.name)}/resolve/{commit}"
    return Listing(commit, [_wanted(entry, root) for entry in chosen], left_out, licences.told(told.get("cardData")))


def _entries(speaker: Client, url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    following = f"{url}?recursive=true"
    for _ in range(_PAGES):
        page, following = speaker.document(following)
        if not isinstance(page, list) or not all(_is_entry(entry) for entry in page):
            raise ModelError(f"{shown(url)} is no list of files; is {ENDPOINT_VARIABLE} right?")
        found += [entry for entry in page if entry["type"] == "file"]
        if not following:
            return found
    raise ModelError(f"{shown(url)} lists files without end.")


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("path"), str) or not isinstance(entry.get("type"), str):
        return False
    return entry["type"] != "file" or (manifest.is_safe(entry["path"]) and isinstance(entry.get("size"), int))


def _chosen(entries: list[dict[str, Any]], asked: Repository) -> tuple[list[dict[str, Any]], list[str]]:
    folder = PurePosixPath(asked.folder or ".")
    paths = {PurePosixPath(entry["path"]): entry for entry in entries}
    others = {path.parent for path in paths if path.name == "config.json"} - {folder}
    chosen, left_out = [], []
    for path, entry in sorted(paths.items()):
        if not path.is_relative_to(folder) or any(part.startswith(".") for part in path.parts):
            continue
        if _is_pattern(asked.inside):
            if path.parent == folder and fnmatchcase(str(path), asked.inside):
                chosen.append(entry)
            continue
        if any(
            path.is_relative_to(other) and other != PurePosixPath(".")
            for other in others
            if other.is_relative_to(folder)
        ):
            continue
        twin = path.name == "pytorch_model.bin" and path.with_name("model.safetensors") in paths
        if twin or not importing.is_taken(Path(path)):
            left_out.append(str(path))
        else:
            chosen.append(entry)
    return chosen, left_out


def _wanted(entry: dict[str, Any], root: str) -> Wanted:
    large = entry.get("lfs")
    sha256 = str(large.get("oid", "")).removeprefix("sha256:") if isinstance(large, dict) else ""
    return Wanted(
        url=f"{root}/{quote(entry['path'])}",
        name=entry["path"],
        size=entry["size"],
        sha256=sha256 if _SHA256.fullmatch(sha256) else "",
        blob=str(entry.get("oid", "")) if not large and _COMMIT.fullmatch(str(entry.get("oid", ""))) else "",
    )


def _is_pattern(text: str) -> bool:
    return "*" in text
