"""Take a bundle in that has been checked: open everything in a locked process, then register what was made first, first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_registry import certificate, importing
from scfm_registry.sharing import parents
from scfm_registry.sharing.bundle import EVIDENCE, Bundle
from scfm_registry.sharing.keys import Keyring

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_registry.sharing.keys import Signer
    from scfm_registry.sharing.parents import Parent
    from scfm_registry.sharing.sharer import Sharer
    from scfm_registry.version import ModelVersion


@dataclass(frozen=True)
class _Opened:
    """A folder that a locked process has opened, and the tags of what it is."""

    folder: Path
    family: str
    tags: dict[str, str]


def take(registry: Sharer, bundle: Bundle, work: Path, name: str, new: Signer | None) -> list[ModelVersion]:
    """Register what a bundle holds: what its version was made from and is new here, and that version last.

    Parameters
    ----------
    registry
        Where.
    bundle, work
        Checked, and the folder that it is unpacked in.
    name
        What the version is called here.
    new
        A signer who is known from now on.

    Raises
    ------
    ModelError
        It does not open, or what it was made from is neither in it nor here.
    """
    known = certificate.given(work / EVIDENCE, bundle.digest, str(bundle.path)) if bundle.signer else None
    places, missing = _parents(registry, bundle, work)
    opened = [(item, _open(bundle, item, work / item.folder, places)) for item in missing]
    own = _open(bundle, None, work / "files", places)
    # Nothing was registered so far: everything has been opened.
    if new is not None:
        Keyring().trust(new)
    taken = []
    for item, made in opened:
        called = parents.name_for(item, [found.name for found in registry.everything()])
        taken.append(registry.add_files(called, made.folder, made.family, made.tags, importing.card_of(made.folder)))
    added = registry.add_files(name, own.folder, own.family, own.tags, importing.card_of(own.folder))
    if known is not None and certificate.RUN not in added.tags:
        registry.keep_certificate(added, *known, by=bundle.signer.name if bundle.signer else "")
        added = registry.get(added.reference)
    return [*taken, added]


def _parents(registry: Sharer, bundle: Bundle, work: Path) -> tuple[dict[str, dict[str, str]], list[Parent]]:
    """Folders of what the version was made from by digest, and those that are not registered here, the first one first."""
    chain = [tags.get(parents.TAG, "") for tags in (bundle.tags, *(item.tags for item in bundle.parents))]
    if chain != [*(item.digest for item in bundle.parents), ""]:
        raise ModelError(f"{bundle.path} is refused: the versions in it were not made from one another as it says.")
    carried = {item.digest for item in bundle.carried}
    places: dict[str, dict[str, str]] = {}
    missing: list[Parent] = []
    for item in reversed(bundle.parents):
        try:
            found, record = registry.find_digest(item.digest)
        except ModelError as error:
            if not item.family:
                continue
            if item.digest not in carried:
                raise ModelError(
                    f"{bundle.path} was made from {item.name} ({item.digest}), which is neither in it nor here; nothing was "
                    "imported. Import that version first, or ask for a bundle with what it was made from."
                ) from error
            places[item.digest] = {"folder": str(work / item.folder), "family": installed(item.family, bundle.path)}
            missing.append(item)
        else:
            places[item.digest] = {"folder": str(registry.files_of(found, record)), "family": found.family}
    return places, missing


def _open(bundle: Bundle, parent: Parent | None, folder: Path, places: dict[str, dict[str, str]]) -> _Opened:
    from scfm_registry.sharing.sharer import _carried

    about = parent or bundle
    request: dict[str, Any] = {
        "family": installed(about.family, bundle.path),
        "kind": about.kind,
        "licence": about.licence or None,
        "config": {},
        "as_registered": True,
        "parents": places,
    }
    tags = importing.locked(folder, bundle.path, request)["tags"]
    if tags.get(parents.TAG, "") != about.tags.get(parents.TAG, "") and parents.TAG in tags:
        raise ModelError(f"{bundle.path} is refused: {about.name} was made from another version than it says.")
    if said := about.tags.get(parents.TAG, ""):
        # Also where its files do not say so, and nobody has signed: what its parent forbids must reach it.
        tags.setdefault(parents.TAG, said)
    if about.commercial is None and tags.get("scfm.commercial") == "true":
        # What nobody knew there is not known here.
        del tags["scfm.commercial"]
    return _Opened(folder, about.family, {**tags, **_carried(bundle, parent)})


def installed(family: str, path: Path) -> str:
    """Return the id of an installed family.

    Raises
    ------
    ModelError
        It is not installed.
    """
    from scfm_lab.plugins import discover

    known = sorted(item.id for item in discover().contributions("models"))
    if family not in known:
        raise ModelError(
            f"{path} needs the model plugin {family[:80]!r}, which is not installed; installed are {', '.join(known)}."
        )
    return family
