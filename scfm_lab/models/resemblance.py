"""What files that no family opens look like: which family they resemble, what they lack, what is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from scfm_lab.models.contract import Model

_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".torch")
# Names that say little: many models have them.
_COMMON = (
    "config.json",
    "model.safetensors",
    "pytorch_model.bin",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)
_MOST_FILES = 4


def hints(path: Path) -> list[str]:
    """Sentences about files that no family recognises; none where nothing can be said.

    What is damaged or holds code is named first, then the family they most resemble with the
    files that it lacks, then folders below that a family does recognise.
    """
    families = list(_families())
    said, held = _faults(path, families)
    return [*said, *_nearest(path, families, held), *_below(path, families)]


def broken_settings(path: Path) -> list[str]:
    """Sentences about configurations and vocabularies that cannot be read: without them a family cannot be told."""
    from scfm_lab.models.files import read_config

    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    said = []
    for file in [p for p in files if p.suffix == ".json"][:_MOST_FILES]:
        try:
            read_config(file.parent, file.name)
        except ModelError as error:
            said.append(str(error))
    return said


def whose(names: Iterable[str]) -> str:
    """Family whose tensors have these names; ``""`` where none is."""
    known = list(names)
    for family, model in _families():
        for group in model.telling:
            if all(any(name.endswith(tail) for name in known) for tail in group):
                return family
    return ""


def not_of(path: Path, title: str, telling: str, tensors: Mapping[str, object], own: str) -> ModelError:
    """The error for a file that holds tensors, and not those of the family that was asked to open it."""
    family = whose(tensors)
    holds = f"they are {family}'s" if family else f"such as {', '.join(list(tensors)[:3])}"
    return ModelError(
        f"{path} holds no {title} (no {telling!r} among its {len(tensors)} tensors; {holds}); give {title}'s own {own}."
    )


def _families() -> Iterator[tuple[str, type[Model]]]:
    """Title and class of each installed family that says which files it was published with."""
    from scfm_lab.plugins import discover

    for item in discover().contributions("models"):
        try:
            model = item.load()
        # A plugin that cannot be loaded is told elsewhere.
        except Exception:  # noqa: BLE001
            continue
        if getattr(model, "published_files", ()):
            yield str(item.data.get("title", item.id)), model


def _faults(path: Path, families: list[tuple[str, type[Model]]]) -> tuple[list[str], set[str]]:
    """What is wrong with the files themselves, and the families whose tensors they hold."""
    from scfm_lab.models.files import read_safetensors, read_torch
    from scfm_lab.models.tensor_names import is_safetensors

    said: list[str] = []
    held: set[str] = set()
    files = [path]
    if path.is_dir():
        named = [hit for _, model in families for group in model.published_files for hit in _hits(path, group)]
        files = [p for p in dict.fromkeys([*sorted(path.iterdir()), *named]) if p.is_file()]
    for file in [p for p in files if p.suffix in _WEIGHTS][:_MOST_FILES]:
        try:
            content = read_safetensors(file) if is_safetensors(file) else read_torch(file)
        except ModelError as error:
            said.append(str(error))
            continue
        names = list(tensor_keys(content))
        family = whose(names)
        if family:
            held.add(family)
            said.append(f"{file.name} holds the tensors of {family}.")
        elif names:
            told = ", ".join(names[:3])
            said.append(f"{file.name} holds {len(names):,} tensors such as {told}, which are those of no family here.")
    return said, held


def tensor_keys(content: object, depth: int = 3) -> Iterator[str]:
    """Names of the tensors in what a checkpoint file holds, wherever a training script has put them."""
    import torch

    if isinstance(content, dict) and depth:
        for key, value in content.items():
            if isinstance(value, torch.Tensor):
                yield str(key)
            else:
                yield from tensor_keys(value, depth - 1)


def _nearest(path: Path, families: list[tuple[str, type[Model]]], held: set[str]) -> Iterator[str]:
    folder = path if path.is_dir() else path.parent
    found = []
    for family, model in families:
        there, missing, score = [], [], 4.0 * (family in held)
        for group in model.published_files:
            hits = _hits(folder, group)
            if not hits:
                plain = [name for name in group if "*" not in name and not name.startswith("..")]
                missing.append(" or ".join(plain) or group[0])
                continue
            there.append(hits[0].name)
            # A name that many models have says little, and so does an ending alone.
            says_little = hits[0].name in _COMMON or not _hits(folder, tuple(n for n in group if not n.startswith("*")))
            score += 0.4 if says_little else 1.0
        if there:
            found.append((score, family, there, missing))
    if not found:
        return
    best = max(score for score, *_ in found)
    nearest = [row for row in found if row[0] == best]
    told = " or ".join(
        f"{family} ({', '.join(there)}" + (f"; missing: {', '.join(missing)})" if missing else ")")
        for _, family, there, missing in nearest
    )
    yield f"They most resemble {told}; give the folder as published."


def _hits(folder: Path, group: tuple[str, ...]) -> list[Path]:
    """Files of a folder (or of the one above, ``../``) by patterns, the first pattern's first."""
    found = []
    for pattern in group:
        above = pattern.startswith("../")
        found += sorted((folder.parent if above else folder).glob(pattern.removeprefix("../")))
    return found


def _below(path: Path, families: list[tuple[str, type[Model]]]) -> Iterator[str]:
    if not path.is_dir():
        return
    inner = [p for p in sorted(path.iterdir()) if p.is_dir()][: 4 * _MOST_FILES]
    for folder in inner:
        for family, model in families:
            try:
                known = model.recognises(folder)
            except (ModelError, OSError):
                known = False
            if known:
                yield f"The folder {folder.name} in it looks like {family}; give that one."
                return
