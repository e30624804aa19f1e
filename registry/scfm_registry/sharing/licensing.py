"""What whoever has a version must keep to: in a sentence, and with the full text of its licence."""

from __future__ import annotations

from importlib import resources
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from scfm_registry.version import is_line, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path, PurePath

#: Beginnings of the names under which licences lie beside published weights, in any case.
NAMES = ("copying", "licence", "license", "model_license", "model_licence", "notice")
_ENDINGS = ("", ".md", ".txt")
_LONGEST = 200_000


def is_licence(path: PurePath) -> bool:
    """Whether a file is, by its name, a licence or a notice: plain text, also without an ending."""
    stem = path.name.lower().removesuffix(path.suffix.lower()) if path.suffix.lower() in _ENDINGS else ""
    return stem.startswith(NAMES) and stem.replace("-", "").replace("_", "").isalpha()


def licence_of(said: Mapping[str, object]) -> str:
    """The licence that a bundle names for a version in it; raises ValueError where it is no line of text."""
    licence = said["licence"]
    if not isinstance(licence, str) or not is_line(licence):
        raise ValueError("licence")
    return licence


def obligations(licence: str, commercial: bool | None) -> str:
    """What whoever has a version must keep to, in a sentence."""
    named = shown(licence, 2_000) or "not known"
    if commercial is False:
        return f"Licence: {named}. Not for commercial use; this holds for everybody it is passed on to, and for models made from it."
    if not licence:
        return "Licence: not known. Ask its authors before you pass it on or use it commercially."
    may = (
        "Commercial use is allowed."
        if commercial
        else "Whether commercial use is allowed is not known; ask its authors."
    )
    return f"Licence: {named}. {may} Keep the licence and the authors' names with it."


def page(
    name: str, family: str, digest: str, licence: str, commercial: bool | None, beside: Iterable[Mapping[str, bytes]]
) -> str:
    """Write the page about the licence that goes with every copy of a version.

    Parameters
    ----------
    name, family, digest, licence, commercial
        Of the version.
    beside
        Licences among its files, and among those of the versions that it was made from, by relative path: they are given in full.
    """
    return (
        f"# {name}\n\n{obligations(licence, commercial)}\n\n- family: {family}\n- identity: {digest}\n\n"
        f"This page goes with every copy.\n\n## The licence in full\n\n{text(licence, beside)}\n"
    )


def in_folder(folder: Path) -> dict[str, bytes]:
    """The licences among the files of a folder, by relative path."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and is_licence(path))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def text(licence: str, beside: Iterable[Mapping[str, bytes]]) -> str:
    """Give the full text: of the files that came with the weights, and of every licence named that is known here.

    Examples
    --------
    >>> text("BSD-3-Clause", []).splitlines()[0]
    '### BSD-3-Clause'
    """
    parts = []
    for path, content in (item for files in beside for item in files.items()):
        words = content[:_LONGEST].decode("utf-8", errors="replace").strip()
        parts.append(f"### {PurePosixPath(path).name}, as it came with the files\n\n{words}")
    for known in resources.files("scfm_registry.sharing").joinpath("licences").iterdir():
        identifier = known.name.removesuffix(".txt")
        if identifier in _words(licence):
            parts.append(f"### {identifier}\n\n{known.read_text(encoding='utf-8').strip()}")
    if parts:
        return "\n\n".join(sorted(dict.fromkeys(parts)))
    return f"The text of '{licence}' is not on record; get it from its authors." if licence else "Not on record."


def _words(licence: str) -> set[str]:
    """Identifiers in an SPDX expression, or at the beginning of a sentence about a licence."""
    words = {word.strip("(),;:") for word in licence.split()}
    return words | {word.removesuffix("-only").removesuffix("-or-later") for word in words}
