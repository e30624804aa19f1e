"""A checkpoint's folder becomes a version.

Nothing from the folder runs: only files that hold data are taken, the family is recognised by installed adapters, and the
model is opened once from a private copy before anything is registered.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError, ScfmError, StorageError
from scfm_registry import builtin, files, names, version
from scfm_registry.version import KINDS

if TYPE_CHECKING:
    from pathlib import Path

    from scfm_lab.models.contract import Model
    from scfm_lab.plugins import Contribution
    from scfm_registry.registry import Registry
    from scfm_registry.version import ModelVersion

#: What a checkpoint may be made of: formats that cannot hold code.
SAFE = frozenset({".csv", ".gz", ".json", ".jsonl", ".md", ".parquet", ".safetensors", ".toml", ".tsv", ".txt"})
#: What opens by running what is in it.
PICKLES = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
_CARDS = ("card.md", "README.md")


def import_checkpoint(
    registry: Registry, path: Path, name: str, *, kind: str, licence: str | None, card: str | None
) -> ModelVersion:
    """Register the checkpoint in the folder `path`; see :meth:`scfm_registry.Registry.import_checkpoint`."""
    names.check_name(name)
    if name in builtin.shipped():
        message = f"'{name}' is a model that comes with scfm-lab; give yours another name, such as 'my-{name}'."
        raise ModelError(message)
    if kind not in KINDS:
        message = f"There is no kind '{kind}'; kinds are {', '.join(KINDS)}."
        raise ModelError(message)
    if not path.exists():
        message = f"There is no checkpoint at {path}; give the folder as published."
        raise ModelError(message)
    if not path.is_dir():
        message = f"{path} is a file; give the folder it came in, with its configuration and vocabulary."
        raise ModelError(message)
    wanted = listing(path)
    family = recognise(path)
    with files.workshop(registry.scratch) as private:
        copy(path, wanted, private)
        if card is not None and not any((private / known).exists() for known in _CARDS):
            (private / _CARDS[0]).write_text(card, encoding="utf-8")
        found = version.tags(
            open_copy(family, private, path).spec,
            kind=kind,
            family=family.id,
            origin="import",
            weight_bytes=weight_bytes(private),
            tasks=family.data.get("tasks", ()),
            parameter_free=bool(family.data.get("parameter_free")),
            licence=licence,
        )
        return registry.register(name, private, family.id, found, card_of(private))


def open_copy(family: Contribution, private: Path, path: Path) -> Model:
    """Open the private copy of the files at `path`: the check that every key and shape is what the family expects.

    Raises
    ------
    ModelError
        It does not open; the message speaks of `path`, which is what its reader knows.
    """
    try:
        model: Model = family.load().open(private)
    except ModelError as error:
        raise ModelError(str(error).replace(str(private), str(path))) from error
    return model


def recognise(path: Path) -> Contribution:
    """Find the installed family that the files at `path` are of.

    Raises
    ------
    ModelError
        None of them, or more than one, says that they are its own.
    """
    from scfm_lab.models.resemblance import hints
    from scfm_lab.plugins import discover

    known = discover().contributions("models")
    faults: list[str] = []
    hits: list[Contribution] = []
    for item in known:
        try:
            if item.load().recognises(path):
                hits.append(item)
        except ScfmError as error:
            faults.append(str(error))
    if len(hits) == 1:
        return hits[0]
    if hits:
        message = f"The files in {path} could be of {' or '.join(item.id for item in hits)}; a config.json that names its family decides."
        raise ModelError(message)
    message = f"The files in {path} are of no family known here ({', '.join(item.id for item in known)})."
    raise ModelError(" ".join([message, *faults, *hints(path)]))


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def card_of(folder: Path) -> str:
    """The card that came with the files, or nothing."""
    for name in _CARDS:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8", errors="replace")
    return ""


def listing(path: Path) -> list[Path]:
    """Relative paths of what is taken from a folder: everything but hidden files.

    Raises
    ------
    ModelError
        It holds something that could run code, or that is no plain file of its own.
    """
    found: list[Path] = []
    for item in sorted(path.rglob("*")):
        relative = item.relative_to(path)
        if any(part.startswith(".") for part in relative.parts) or item.is_dir():
            continue
        suffix = item.suffix.lower()
        if suffix in PICKLES:
            message = (
                f"{item} is a pickle, which can run code when it is opened, so the registry does not take it. Use the "
                f"checkpoint from its folder instead: sl.load_model({str(path)!r}), --model {path}, or Lab(adata, "
                f"model={str(path)!r}); or convert the weights to safetensors and import the folder without it."
            )
            raise ModelError(message)
        if suffix not in SAFE:
            message = (
                f"{item} is not taken into the registry: a checkpoint is made of {', '.join(sorted(SAFE))} files. Leave it "
                "out of the folder."
            )
            raise ModelError(message)
        if not item.is_file():
            message = f"{item} is not a plain file; leave it out of the folder."
            raise ModelError(message)
        if item.is_symlink() and not item.resolve().is_relative_to(path.resolve()):
            message = f"{item} is a link that leads out of the folder; put the file itself there."
            raise ModelError(message)
        found.append(relative)
    return found


def copy(path: Path, wanted: list[Path], private: Path) -> None:
    """Copy files by their relative paths from `path` into the private folder.

    Raises
    ------
    StorageError
        There is not enough room.
    ModelError
        A file cannot be read.
    """
    need = sum((path / relative).stat().st_size for relative in wanted)
    free = shutil.disk_usage(private).free
    # The private copy and the registry's own lie side by side for a moment.
    if free < 2 * need + 2**20:
        message = (
            f"Registering {path} takes {2 * need / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free at {private.parent}. "
            "Free some space, or set SCFM_HOME to a directory on a larger disk."
        )
        raise StorageError(message)
    for relative in wanted:
        target = private / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path / relative, target)
        except OSError as error:
            if error.filename != str(path / relative):
                raise
            message = f"{path / relative} cannot be read ({error.strerror}). Look at its permissions, or get it again."
            raise ModelError(message) from error
