"""A version as one file, for another lab: what it is made of, what it may be used for, and who says so.

A bundle is a zip in which nothing is packed and everything has its order and one date, so that the same version and key give
the same bytes. ``bundle.json`` lists every other file with its SHA-256; ``signature.json`` is an Ed25519 signature of that
list. Nothing in a bundle is believed before both have been checked, and its files then take the way of any other import.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, StorageError
from scfm_registry import manifest, names
from scfm_registry.sharing import packing, unpacking
from scfm_registry.sharing.keys import Keyring, Signer, check_signer, public_key, verify
from scfm_registry.sharing.licensing import in_folder, licence_of, obligations, page
from scfm_registry.sharing.parents import Parent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from scfm_registry.version import ModelVersion

ENDING = ".scfm"
SCHEMA = 1
DOCUMENT, SIGNATURE, LICENCE, CARD = "bundle.json", "signature.json", "LICENCE.md", "CARD.md"
FILES, EVIDENCE = "files/", "evidence/"
#: What is signed begins with this, so that a signature of something else can never be taken for one of a bundle.
_PURPOSE = b"scfm-lab bundle 1\n"
_LARGEST_DOCUMENT = 8 * 2**20


@dataclass(frozen=True)
class Bundle:
    """A bundle: what its document says, and who signed it.

    Attributes
    ----------
    path
        The file.
    name
        What the model is called where it comes from.
    digest
        The version's identity.
    family, kind, licence, commercial
        As in :class:`scfm_registry.ModelVersion`.
    tags
        What else is on record there about where it comes from.
    files
        Every file but the document and its signature: path → SHA-256 and size.
    signer
        Who signed; ``None`` where nobody did.
    parents
        The versions that it was made from, nearest first; of the last one only the digest may be known.
    """

    path: Path
    name: str
    digest: str
    family: str
    kind: str
    licence: str
    commercial: bool | None
    tags: dict[str, str]
    files: dict[str, manifest.FileEntry]
    signer: Signer | None
    parents: tuple[Parent, ...] = ()

    @property
    def carried(self) -> tuple[Parent, ...]:
        """Those of its parents whose files are in it."""
        return tuple(item for item in self.parents if f"{item.folder}{manifest.FILENAME}" in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files in it."""
        return sum(entry.size for entry in self.files.values())

    @property
    def obligations(self) -> str:
        """What whoever has the version must keep to, in a sentence."""
        return obligations(self.licence, self.commercial)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "path": str(self.path),
            "name": self.name,
            "digest": self.digest,
            "family": self.family,
            "kind": self.kind,
            "licence": self.licence,
            "commercial": self.commercial,
            "obligations": self.obligations,
            "files": len(self.files),
            "size": self.size,
            "parents": [{"name": item.name, "digest": item.digest} for item in self.parents],
            "carries_parents": len(self.carried) == len(self._known),
            "signer": None if self.signer is None else self.signer.to_dict(),
        }

    def summary(self) -> str:
        """A few lines for people."""
        by = f"signed by '{self.signer.name}' ({self.signer.fingerprint})" if self.signer else "not signed"
        return (
            f"{self.path}: {self.name} ({self.family}, {self.digest}), {len(self.files)} files, {self.size / 2**20:.1f} MiB, "
            f"{by}.\n{self.obligations}{self._told_parents()}"
        )

    @property
    def _known(self) -> list[Parent]:
        return [item for item in self.parents if item.family]

    def _told_parents(self) -> str:
        named = ", ".join(f"{item.name} ({item.digest[:19]}…)" for item in self._known)
        told = ""
        if named and len(self.carried) == len(self._known):
            told = f"\nWith it goes what it was made from: {named}."
        elif named:
            told = f"\nMade from {named}, which whoever imports it must have: their files are not in it."
        if len(self._known) < len(self.parents):
            told += f"\nMade from {self.parents[-1].digest}, of which no more is known, and which it opens without."
        return told


# ------------------------------------------------------------------------------------------------------- out


def write(
    target: Path,
    found: ModelVersion,
    folder: Path,
    *,
    tags: Mapping[str, str],
    evidence: Mapping[str, bytes],
    card: str,
    signer: Signer | None,
    parents: Sequence[tuple[Parent, Path | None]] = (),
    carry: bool = True,
    overwrite: bool = False,
) -> Bundle:
    """Write the bundle of a version whose checked files lie in `folder`.

    Parameters
    ----------
    target
        The file; it is there whole or not at all.
    found, folder
        The version, and its files with their manifest.
    tags
        What goes with it besides.
    evidence
        Documents about it by file name, such as a certificate.
    card
        Its card, as the registry renders it.
    signer
        One's own key that signs; ``None``: nobody does.
    parents, carry
        The versions that it was made from, with their checked files where they are here; whether those go with it, or are
        named only.
    overwrite
        Whether a file that is there is replaced.

    Raises
    ------
    ModelError
        There is a file already, or one of the version's files has changed meanwhile.
    StorageError
        The place cannot be written.
    """
    if target.exists() and not overwrite:
        raise ModelError(f"There is a file {target} already; choose another name, or overwrite it with --force.")
    sources = {FILES: folder, **{parent.folder: place for parent, place in parents if carry and place}}
    licence = page(
        *(found.name, found.family, found.digest, found.licence, found.commercial),
        map(in_folder, [folder, *(place for _, place in parents if place)]),
    )
    texts = {LICENCE: licence.encode(), CARD: card.encode(), **{f"{EVIDENCE}{k}": v for k, v in evidence.items()}}
    placed: dict[str, tuple[Path, manifest.FileEntry]] = {}
    for inside, place in sources.items():
        content = (place / manifest.FILENAME).read_bytes()
        texts[f"{inside}{manifest.FILENAME}"] = content
        listed = manifest.parse(content, str(place / manifest.FILENAME)).files
        placed |= {f"{inside}{path}": (place / path, entry) for path, entry in listed.items()}
    entries = {path: entry for path, (_, entry) in placed.items()}
    entries |= {path: manifest.FileEntry(hashlib.sha256(text).hexdigest(), len(text)) for path, text in texts.items()}
    bundle = Bundle(
        target,
        found.name,
        found.digest,
        found.family,
        found.kind,
        found.licence,
        found.commercial,
        dict(tags),
        entries,
        signer,
        tuple(parent for parent, _ in parents),
    )
    document = _document(bundle)
    texts[DOCUMENT] = document
    if signer is not None:
        signature = Keyring().sign(signer, _PURPOSE + document)
        texts[SIGNATURE] = _json({"signature": base64.b64encode(signature).decode()})
    packing.write(target, texts, placed)
    return bundle


def _document(bundle: Bundle, *, parents: bool = True) -> bytes:
    signer = bundle.signer
    return _json(
        {
            "schema": SCHEMA,
            "name": bundle.name,
            "digest": bundle.digest,
            "family": bundle.family,
            "kind": bundle.kind,
            "licence": bundle.licence,
            "commercial": bundle.commercial,
            "obligations": bundle.obligations,
            "tags": bundle.tags,
            **({"parents": [item.to_dict() for item in bundle.parents]} if parents else {}),
            "files": {path: {"sha256": entry.sha256, "size": entry.size} for path, entry in bundle.files.items()},
            "signer": None
            if signer is None
            else {"name": signer.name, "public": base64.b64encode(signer.public).decode()},
        }
    )


def _json(document: Mapping[str, Any]) -> bytes:
    """The one way to write a document: UTF-8 JSON, keys sorted, no spaces."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


# -------------------------------------------------------------------------------------------------------- in


def unpack(path: Path, folder: Path) -> Bundle:
    """Unpack a bundle into an empty folder, and check its signature and every file against its list.

    Who signed is told and not judged: see :func:`accept`.

    Raises
    ------
    ModelError
        It is no bundle, its signature is false, a file is missing, added or another than was listed.
    StorageError
        The disk is full.
    """
    if not path.is_file():
        raise ModelError(f"There is no bundle {path}; give the file that 'scfm-lab models export' wrote.")
    size = path.stat().st_size
    free = shutil.disk_usage(folder).free
    if 3 * size + 2**24 > free:
        raise StorageError(
            f"Importing {path} takes {3 * size / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free at {folder.parent}. Free some "
            "space, or set SCFM_HOME to a directory on a larger disk."
        )
    # Nothing in a bundle is packed, so what comes out is never more than what went in.
    unpacking.unpack(path, folder, largest=size)
    bundle = _read(path, folder)
    _check_files(bundle, folder)
    return bundle


def _read(path: Path, folder: Path) -> Bundle:
    damaged = f"{path} is no bundle that this scfm-lab reads; get it again, or update scfm-lab."
    document = folder / DOCUMENT
    if not document.is_file() or document.stat().st_size > _LARGEST_DOCUMENT:
        raise ModelError(damaged)
    content = document.read_bytes()
    try:
        said = json.loads(content)
        signer = said["signer"]
        if signer is not None:
            signer = Signer(check_signer(signer["name"]), public_key(signer["public"]))
        bundle = Bundle(
            path=path,
            name=names.check_name(said["name"]),
            digest=str(said["digest"]),
            family=str(said["family"]),
            kind=str(said["kind"]),
            licence=licence_of(said),
            commercial={True: True, False: False, None: None}[said["commercial"]],
            tags={str(key): str(value) for key, value in said["tags"].items()},
            files={str(k): manifest.FileEntry(str(v["sha256"]), int(v["size"])) for k, v in said["files"].items()},
            signer=signer,
            parents=tuple(Parent.read(item) for item in said.get("parents", ())),
        )
    except ModelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(damaged) from error
    # One document has one way to be written: no doubled keys, nothing that one reader sees and another does not.
    if said.get("schema") != SCHEMA or _document(bundle, parents="parents" in said) != content:
        raise ModelError(damaged)
    _check_signature(bundle, folder, content)
    return bundle


def _check_signature(bundle: Bundle, folder: Path, content: bytes) -> None:
    file = folder / SIGNATURE
    if bundle.signer is None:
        if file.exists():
            raise ModelError(f"{bundle.path} is refused: it holds a signature of nobody.")
        return
    try:
        said = json.loads(file.read_bytes()[:10_000])
        signature = base64.b64decode(said["signature"], validate=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{bundle.path} is refused: it names a signer and holds no signature. Get it again."
        ) from error
    if not verify(bundle.signer.public, signature, _PURPOSE + content):
        raise ModelError(
            f"{bundle.path} is refused: its signature is not that of '{bundle.signer.name}' ({bundle.signer.fingerprint}); it was "
            "changed after it was signed. Get it again from where it came."
        )


def _check_files(bundle: Bundle, folder: Path) -> None:
    found = {item.relative_to(folder).as_posix() for item in folder.rglob("*") if not item.is_dir()}
    more = sorted(found - set(bundle.files) - {DOCUMENT, SIGNATURE})
    if more:
        raise ModelError(f"{bundle.path} is refused: it holds {more[0]!r}, which is not on its list.")
    places = (FILES, EVIDENCE, *(item.folder for item in bundle.parents))
    for path, entry in sorted(bundle.files.items()):
        if not path.startswith(places) and path not in (LICENCE, CARD):
            raise ModelError(f"{bundle.path} is refused: it lists {path!r}, which has no place in a bundle.")
        file = folder / path
        if path not in found:
            raise ModelError(f"{bundle.path} is refused: {path} is missing. Get it again.")
        if file.stat().st_size != entry.size or manifest.sha256(file) != entry.sha256:
            raise ModelError(f"{bundle.path} is refused: {path} is not the file that was listed. Get it again.")
    for inside, digest in ((FILES, bundle.digest), *((item.folder, item.digest) for item in bundle.carried)):
        states = manifest.check(folder / inside, digest, str(bundle.path))
        wrong = [f"{inside}{file} {state}" for file, state in states.items() if state != "ok"]
        if wrong:
            raise ModelError(f"{bundle.path} is refused: {wrong[0]}. Get it again.")


def accept(bundle: Bundle, *, trust: str | None, ask: Callable[[Signer], bool] | None, unsigned: bool) -> Signer | None:
    """Decide whether a bundle's signer is somebody whose word counts here; who was asked about once is known.

    Parameters
    ----------
    bundle
        Checked by :func:`unpack`.
    trust
        A fingerprint that is trusted.
    ask
        Asks a person about a signer that is not known yet.
    unsigned
        Whether a bundle that nobody signed is taken.

    Returns
    -------
    Signer or None
        Whom to trust from now on; ``None`` where there is nobody new.

    Raises
    ------
    ModelError
        Nobody signed it, the signer is not known and nobody said yes, or the name is known with another key.
    """
    from scfm_registry.sharing.keys import check_fingerprint, other_key

    signer = bundle.signer
    if trust is not None:
        check_fingerprint(trust)
    if signer is None:
        if unsigned and trust is None:
            return None
        raise ModelError(
            f"{bundle.path} is not signed, so nobody answers for it. If you know where it comes from, take it with --unsigned."
        )
    if trust is not None and trust != signer.fingerprint:
        raise ModelError(
            f"{bundle.path} is signed by '{signer.name}' with the key {signer.fingerprint}, and not with {trust}; nothing was imported."
        )
    known = Keyring().known(signer.name)
    if known is not None:
        if known.public != signer.public:
            raise other_key(known, signer)
        return None
    if trust is not None or (ask is not None and ask(signer)):
        return signer
    raise ModelError(
        f"{bundle.path} is signed by '{signer.name}', whose key {signer.fingerprint} is not known here; nothing was imported. Compare "
        f"the fingerprint with its owner, then run again with --trust {signer.fingerprint}"
    )
