"""Checkpoints that lie about: found below a folder, recognised, told apart from copies, and registered if somebody says so."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, ScfmError
from scfm_lab.models import finetuned
from scfm_registry import builtin, importing, manifest
from scfm_registry.sharing.licensing import is_licence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pandas as pd

    from scfm_lab.plugins import Contribution
    from scfm_registry.reading import Reader

WEIGHTS = frozenset(finetuned.WEIGHTS)
#: Folders that hold no checkpoints of a lab, and very many files.
_PASSED = frozenset({"__pycache__", "node_modules", "site-packages", "lost+found", "proc", "sys"})
_COMMON = frozenset(
    {
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
    }
)
#: Endings of what people write beside a checkpoint, and no family reads.
_WORDS = frozenset({".md", ".txt"})
_DEEPEST = 64


@dataclass(frozen=True)
class Stray:
    """A checkpoint that was found, and what is known of it.

    Attributes
    ----------
    path
        Its folder.
    family
        Id of the adapter that opens it.
    name
        What it would be called.
    size
        Bytes of its files.
    files
        Relative paths of what belongs to it.
    content
        SHA-256 over its files but for words about it (cards, notes, licences): two folders with the same are copies.
    copies
        Folders with the same content.
    alike
        Folders with the same weights and another configuration or vocabulary.
    here
        References of the versions that have these weights already.
    problem
        Why it cannot be registered; empty where it can.
    """

    path: Path
    family: str
    name: str
    size: int
    files: tuple[str, ...] = field(repr=False)
    content: str = ""
    weights: frozenset[str] = field(default=frozenset(), repr=False)
    copies: tuple[Path, ...] = ()
    alike: tuple[Path, ...] = ()
    here: tuple[str, ...] = ()
    problem: str = ""

    @property
    def new(self) -> bool:
        """Whether it can be registered and is not yet."""
        return not self.here and not self.problem

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "path": str(self.path),
            "family": self.family,
            "name": self.name,
            "size": self.size,
            "content": self.content,
            "copies": [str(path) for path in self.copies],
            "alike": [str(path) for path in self.alike],
            "here": list(self.here),
            "problem": self.problem,
        }


class Strays(list[Stray]):
    """The checkpoints found below a folder.

    Attributes
    ----------
    unread
        Folders that could not be read, with the reason.
    links
        Folders that links lead to; they were not followed.
    unknown
        Folders with weights of no family that is known here.
    looked_at
        How many folders were looked at.
    """

    def __init__(self, found: Iterable[Stray] = ()) -> None:
        super().__init__(found)
        self.unread: list[str] = []
        self.links = 0
        self.unknown: list[Path] = []
        self.looked_at = 0

    @property
    def table(self) -> pd.DataFrame:
        """One row for each checkpoint."""
        import pandas as pd

        columns = ["path", "family", "name", "size", "copies", "here", "problem"]
        return pd.DataFrame([{key: item.to_dict()[key] for key in columns} for item in self], columns=columns)

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "checkpoints": [item.to_dict() for item in self],
            "unknown": [str(path) for path in self.unknown],
            "unread": self.unread,
            "links": self.links,
            "looked_at": self.looked_at,
        }

    def summary(self) -> str:
        """A few lines for people."""
        lines = []
        for item in self:
            state = item.problem or (
                f"is {', '.join(item.here)} already" if item.here else f"would be called {item.name}"
            )
            lines.append(f"{item.path}: {item.family}, {item.size / 2**20:,.1f} MiB; {state}")
            lines += [f"  the same: {path}" for path in item.copies]
            lines += [f"  the same weights, other files: {path}" for path in item.alike]
        new = sum(item.new for item in self)
        lines.append(f"{len(self)} checkpoints in {self.looked_at:,} folders, {new} of them new.")
        lines += (
            [f"Weights of no family that is known here: {', '.join(map(str, self.unknown))}."] if self.unknown else []
        )
        lines += [f"Not readable: {'; '.join(self.unread)}."] if self.unread else []
        lines += [f"{self.links} linked folders were not followed."] if self.links else []
        return "\n".join(lines)


def find(registry: Reader, root: Path, *, progress: Callable[[int, int], None] | None = None) -> Strays:
    """Find the checkpoints below a folder, and what the registry knows of them; see :meth:`scfm_registry.Registry.find_strays`."""
    if not root.is_dir():
        raise ModelError(f"There is no folder {root}.")
    told = Strays()
    from scfm_lab.home import data_home

    own = {folder.resolve() for folder in (registry.scratch, data_home()) if folder.exists()}
    candidates = list(_candidates(root, told, own))
    found: list[Stray] = []
    for number, folder in enumerate(candidates, 1):
        item = _look(folder, told)
        if item is not None:
            found.append(item)
        if progress is not None:
            progress(number, len(candidates))
    known = {path for path in told.unknown if any(_belongs(path, item) for item in found)}
    told.unknown = [path for path in told.unknown if path not in known]
    told.extend(_named(_grouped(found), registry))
    return told


def _candidates(root: Path, told: Strays, own: set[Path]) -> Iterator[Path]:
    """Folders that hold weights, by the names of their files. Links are not followed, so that no circle is walked."""

    def unread(error: OSError) -> None:
        told.unread.append(f"{error.filename} ({error.strerror})")

    for place, folders, names in os.walk(root, onerror=unread, followlinks=False):
        told.looked_at += 1
        path = Path(place)
        deep = len(path.relative_to(root).parts) >= _DEEPEST
        if deep or "pyvenv.cfg" in names or path.resolve() in own:
            folders.clear()
            continue
        told.links += sum((path / name).is_symlink() for name in folders)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _PASSED)
        if any(Path(name).suffix.lower() in WEIGHTS for name in names):
            yield path


def _look(folder: Path, told: Strays) -> Stray | None:
    """What a folder with weights is."""
    try:
        hits, _ = importing.recognising(folder)
        if len(hits) != 1:
            told.unknown.append(folder)
            return None
        family = hits[0]
        wanted = _belonging(folder, family)
        places = {**{str(path): folder / path for path in wanted}, **importing.beside(family, folder)}
        size = sum(path.stat().st_size for path in places.values())
        hashes = {name: manifest.sha256(path) for name, path in places.items()}
        known = {digest for name, digest in hashes.items() if Path(name).suffix.lower() in WEIGHTS}
        if finetuned.is_finetuned(folder):
            own = {name: hashes[name] for name in map(str, wanted)}
            whole = finetuned.whole_identity(folder, own)
            also = finetuned.same_as(folder, own) if whole else finetuned.identity(folder)
            known |= {whole.removeprefix("sha256:"), also.removeprefix("sha256:")}
    except OSError as error:
        told.unread.append(f"{error.filename or folder} ({error.strerror or error})")
        return None
    except ScfmError as error:
        return Stray(folder, "", "", 0, (), problem=str(error))
    told_apart = sorted((name, digest) for name, digest in hashes.items() if not _is_about(Path(name)))
    return Stray(
        folder,
        family.id,
        "",
        size,
        tuple(str(path) for path in wanted),
        content=hashlib.sha256(repr(told_apart).encode()).hexdigest(),
        weights=frozenset(known - {""}),
    )


def _is_about(path: Path) -> bool:
    return path.suffix.lower() in _WORDS or is_licence(path)


def _belonging(folder: Path, family: Contribution) -> list[Path]:
    """Relative paths of the files of a checkpoint: those beside the weights, and below only what its family publishes there."""
    patterns = [pattern for group in family.load().published_files for pattern in group if not pattern.startswith("..")]
    below = {pattern.partition("/")[0] for pattern in patterns if "/" in pattern or "." not in pattern}
    telling = [
        name for name in (pattern.rpartition("/")[2] for pattern in patterns) if "." in name and name not in _COMMON
    ]
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=False):
        inside = Path(place).relative_to(folder)
        depth = len(inside.parts)
        taken = depth == 0 or inside.parts[0] in below or any(fnmatchcase(n, t) for n in names for t in telling)
        folders[:] = [name for name in sorted(folders) if depth < 2 and not name.startswith(".")]
        if not taken:
            continue
        twin = "model.safetensors" in names
        for name in sorted(names):
            path = Path(place) / name
            if name.startswith(".") or not importing.is_taken(Path(name)) or (twin and name == "pytorch_model.bin"):
                continue
            if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
                found.append(inside / name)
        if len(found) > manifest.MAX_FILES:
            raise ModelError(
                f"{folder} holds more than {manifest.MAX_FILES:,} files; put the checkpoint's own into a folder of theirs."
            )
    return found


def _belongs(path: Path, item: Stray) -> bool:
    """Whether a folder is a part of a checkpoint that was recognised."""
    return path != item.path and path.is_relative_to(item.path)


def _grouped(found: list[Stray]) -> list[Stray]:
    """One for each content, with the folders of its copies; the shortest path stands for all."""
    groups: dict[str, list[Stray]] = {}
    for item in found:
        groups.setdefault(item.content or str(item.path), []).append(item)
    kept = []
    for group in groups.values():
        first, *others = sorted(group, key=lambda item: (len(item.path.parts), str(item.path)))
        kept.append(replace(first, copies=tuple(item.path for item in others)))
    kept.sort(key=lambda item: str(item.path))
    return [replace(item, alike=_alike(item, kept)) for item in kept]


def _alike(item: Stray, found: list[Stray]) -> tuple[Path, ...]:
    return tuple(other.path for other in found if other is not item and other.weights and other.weights == item.weights)


def _named(found: list[Stray], registry: Reader) -> Iterator[Stray]:
    """Give each a name of its own, and say which are registered."""
    from scfm_registry.catalog import catalog

    versions = registry.everything()
    here: dict[str, list[str]] = {}
    for version in versions:
        for key in ("scfm.weights", "scfm.whole"):
            here.setdefault(version.tags.get(key, "").removeprefix("sha256:"), []).append(version.reference)
    published = {item.sha256: item.id for item in catalog() if item.sha256}
    taken = {version.name for version in versions} | set(builtin.shipped())
    for item in found:
        known = tuple(sorted({reference for digest in item.weights for reference in here.get(digest, ())}))
        if item.problem or known:
            yield replace(item, here=known)
            continue
        name = next((published[digest] for digest in sorted(item.weights) if digest in published), "") or _name(item)
        number, unique = 2, name
        while unique in taken:
            unique, number = f"{name[:58]}-{number}", number + 1
        taken.add(unique)
        yield replace(item, name=unique)


def _name(item: Stray) -> str:
    """A name made of the folder's; where that says nothing, with that of the folder above."""
    words = [_slug(part) for part in item.path.parts[-2:]]
    plain = {
        "model",
        "models",
        "checkpoint",
        "checkpoints",
        "ckpt",
        "ckpts",
        "weights",
        "best",
        "last",
        "output",
        "outputs",
        "",
    }
    last = words[-1]
    if last in plain and len(words) > 1:
        last = words[0]
    elif re.fullmatch(r"(checkpoint|epoch|step|run|v)-?\d+", last) and len(words) > 1:
        last = f"{words[0]}-{last}".strip("-")
    if not last[:1].isalpha():
        last = f"{item.family.rpartition('.')[2]}-{last}".strip("-")
    return last[:60].strip("-")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
