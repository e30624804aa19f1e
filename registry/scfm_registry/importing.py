"""A checkpoint's folder becomes a version.

Nothing from the folder runs. A private copy is made; in a process of its own, locked and without network, pickles are read
by readers of plain data and written down as safetensors and JSON, and the model is opened once from what was written. Only
then anything is registered.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import Cancelled, ModelError, ScfmError, StorageError
from scfm_lab.models.converted import is_pickle
from scfm_registry import builtin, confining, files, manifest, names, tuned, workers
from scfm_registry.lineage import PARENT
from scfm_registry.sharing.licensing import is_licence
from scfm_registry.version import KINDS, check_licence, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from scfm_lab.models.contract import Model
    from scfm_lab.plugins import Contribution
    from scfm_registry.registering import Registrar
    from scfm_registry.version import ModelVersion

#: Formats that cannot hold code.
SAFE = frozenset(
    {
        ".csv",
        ".gz",
        ".h5",
        ".h5ad",
        ".json",
        ".jsonl",
        ".md",
        ".npy",
        ".parquet",
        ".safetensors",
        ".toml",
        ".tsv",
        ".txt",
    }
)
#: What is published beside models and is no part of them.
_PICTURES = frozenset({".gif", ".ipynb", ".jpeg", ".jpg", ".log", ".pdf", ".png", ".svg", ".yaml", ".yml"})
#: The state of a training, and what would have programs installed.
_TRAINING = ("optimizer*", "rng_state*", "scaler*", "scheduler*", "training_args*", "requirements*.txt")
#: What an import found, and what it became, beside the version's files. What was left out is no part of the version: it stands in
#: the audit trail.
RECORD = "import.json"
#: Tag of a version whose files were read by a process that the network was not kept from.
ISOLATION = "scfm.isolation"
#: Names of the card that comes with files; the first that is there counts.
CARDS = ("card.md", "README.md")
_TIMEOUT = 3600
#: How many of the files that were left out are named.
_SHOWN = 10


def import_checkpoint(
    registry: Registrar,
    path: Path,
    name: str,
    *,
    kind: str,
    licence: str | None,
    card: str | None,
    config: Mapping[str, Any] | None = None,
    only: Sequence[Path] | None = None,
    source: str = "",
    published: str = "",
    parent: str | None = None,
    tags: Mapping[str, str] | None = None,
    cancel: Any = None,
) -> ModelVersion:
    """Register the checkpoint in the folder `path`; see :meth:`scfm_registry.Registry.import_checkpoint`.

    Parameters
    ----------
    registry, path, name, kind, licence, card, config
        As there.
    only
        Relative paths of its files, where the folder holds more than the checkpoint.
    source
        Where it was fetched from, for the record.
    published
        The licence that its authors name where it was fetched from; that of a card among the files goes before.
    parent
        The version that it was made from, by its reference, where whoever brings it knows that.
    tags
        What is known of the version besides: it is there from the first moment on.
    cancel
        A ``threading.Event``: once it is set nothing is registered any more.
    """
    check_request(name, kind, licence)
    if not path.exists():
        message = f"There is no checkpoint at {path}; give the folder as published."
        raise ModelError(message)
    if not path.is_dir():
        message = f"{path} is a file; give the folder it came in, with its configuration and vocabulary."
        raise ModelError(message)
    named = None if parent is None else registry.get(parent)
    wanted, left_out = listing(path) if only is None else (list(only), [])
    family = recognise(path)
    places = {str(relative): path / relative for relative in wanted}
    workers.prepare()
    with files.workshop(registry.scratch) as private:
        copy({**places, **beside(family, path)}, private, path, cancel=cancel)
        base, parents = tuned.settle(registry, private, path)
        if card is not None and not any((private / known).exists() for known in CARDS):
            (private / CARDS[0]).write_text(card, encoding="utf-8")
        made_from = base or named
        request = {"family": family.id, "kind": kind, "licence": licence, "parents": parents}
        request |= {"inherited": (made_from and made_from.licence) or None, "published": published}
        answer = locked(private, path, {**request, "config": dict(config or {})})
        own = tuned.terms(made_from, answer["tags"]) | ({"scfm.source": source} if source else {})
        own |= _said_parent(path, named, own)
        stop_if(cancel)
        added = registry.add_files(
            name, private, family.id, own | dict(tags or {}), card_of(private), left_out=left_out
        )
    if named is not None and added.tags.get(PARENT) != named.digest:
        message = (
            f"The files in {path} are {added.reference}, which was registered without {named.reference} as what it was made from, "
            "and still is. Delete and purge that version first, if it was."
        )
        raise ModelError(message)
    return replace(added, remarks=(f"left out: {_few(left_out)}",)) if left_out else added


def _said_parent(path: Path, named: ModelVersion | None, own: Mapping[str, str]) -> dict[str, str]:
    """Tag of the version that a checkpoint is said to be made from; its own record, where it has one, must say the same."""
    if named is None:
        return {}
    if own.get(PARENT, named.digest) != named.digest:
        message = (
            f"The record of {path} says that it was made from {own[PARENT]}, and not from {named.reference} ({named.digest}); leave "
            "that out."
        )
        raise ModelError(message)
    return {PARENT: named.digest}


def _few(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN:,} more" if len(paths) > _SHOWN else ""
    return f"{', '.join(shown(path, 200) for path in paths[:_SHOWN])}{more}"


def stop_if(cancel: Any) -> None:
    """End an import that somebody has stopped.

    Raises
    ------
    Cancelled
        `cancel` is set.
    """
    if cancel is not None and cancel.is_set():
        message = "Stopped; nothing was registered."
        raise Cancelled(message)


def heeding(progress: bool | Callable[..., None], cancel: Any) -> bool | Callable[..., None]:
    """A way to show progress that ends the work once `cancel` is set; as it is where nobody can set it."""
    if cancel is None:
        return progress

    def report(*given: Any) -> None:
        stop_if(cancel)
        if callable(progress):
            progress(*given)

    return report


def check_request(name: str, kind: str, licence: str | None = None) -> None:
    """Refuse what cannot be, before anything is read or fetched.

    Raises
    ------
    ModelError
        The name is none, or that of a built-in model; there is no such kind; the licence is no line of text.
    """
    check_licence(licence)
    names.check_name(name)
    if name in builtin.shipped():
        message = f"'{name}' is a model that comes with scfm-lab; give yours another name, such as 'my-{name}'."
        raise ModelError(message)
    if kind not in KINDS:
        message = f"There is no kind '{kind}'; kinds are {', '.join(KINDS)}."
        raise ModelError(message)


def locked(private: Path, path: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Let a locked process convert the files in `private` and open the model: what it answers.

    Raises
    ------
    ModelError
        What it refuses; the message speaks of `path`, which is what its reader knows.

    Warns
    -----
    RuntimeWarning
        The system has no filter that would have kept it from the network; the version's tags say so too.
    """
    try:
        done = workers.ask(json.dumps({**request, "folder": str(private)}), timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        message = f"Reading {path} was not done after {_TIMEOUT // 60} minutes; no checkpoint takes that long."
        raise ModelError(message) from error
    except OSError as error:
        message = f"The process that reads {path} could not be started ({error.strerror})."
        raise StorageError(message) from error
    lines = done.stdout.strip().splitlines()
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        message = f"Reading {path} was ended by the system or by its limits ({last[:200]}); nothing was registered."
        raise ModelError(message) from error
    if "error" in answer:
        said = str(answer["error"]).replace(str(private), str(path))
        raise StorageError(said) if answer.get("storage") else ModelError(said)
    if confining.NO_NETWORK not in answer["locks"]:
        answer["tags"][ISOLATION] = "no network filter"
        message = f"What read {path} was not kept from the network: {confining.finding()[1]}."
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    return dict(answer)


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

    hits, faults = recognising(path)
    if len(hits) == 1:
        return hits[0]
    if hits:
        message = f"The files in {path} could be of {' or '.join(item.id for item in hits)}; a config.json that names its family decides."
        raise ModelError(message)
    known = ", ".join(item.id for item in discover().contributions("models"))
    message = f"The files in {path} are of no family known here ({known})."
    raise ModelError(" ".join([message, *faults, *hints(path)]))


def recognising(path: Path) -> tuple[list[Contribution], list[str]]:
    """The installed families that say the files at `path` are theirs, and what others say is wrong with them.

    A fine-tuned model, which may hold nothing but what changed, is of the family that its record names.
    """
    from scfm_lab.models import finetuned
    from scfm_lab.plugins import discover

    if finetuned.is_finetuned(path):
        try:
            named = finetuned.read_record(path)["parent"]["family"]
        except ModelError as error:
            return [], [str(error)]
        known = [item for item in discover().contributions("models") if item.id == named]
        return known, [] if known else [f"It was fine-tuned from a model of the family {named[:80]!r}."]
    faults: list[str] = []
    hits: list[Contribution] = []
    for item in discover().contributions("models"):
        try:
            if item.load().recognises(path):
                hits.append(item)
        except ScfmError as error:
            faults.append(str(error))
    return hits, faults


def beside(family: Contribution, path: Path) -> dict[str, Path]:
    """Files outside the folder `path` that belong to the checkpoint in it; a fine-tuned model has what it needs, or a parent."""
    from scfm_lab.models.finetuned import is_finetuned

    return {} if is_finetuned(path) else dict(family.load().beside(path))


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def card_of(folder: Path) -> str:
    """The card that came with the files, or nothing."""
    for name in CARDS:
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8", errors="replace")
    return ""


def config_of(folder: Path) -> dict[str, Any]:
    """What ``config=`` said when a version was imported."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(found) if isinstance(found, dict) else {}


def listing(path: Path) -> tuple[list[Path], list[str]]:
    """Relative paths of what is taken from a folder, and what is left out: pictures, and the state of a training.

    Hidden files count as none.

    Raises
    ------
    ModelError
        It holds something that is neither, or that is no plain file of its own.
    """
    found: list[Path] = []
    left_out: list[str] = []
    for item in sorted(path.rglob("*")):
        relative = item.relative_to(path)
        if any(part.startswith(".") for part in relative.parts) or item.is_dir():
            continue
        suffix = item.suffix.lower()
        if (
            suffix in _PICTURES
            or any(item.match(pattern) for pattern in _TRAINING)
            or _is_copy(item)
            or _is_serving(item)
        ):
            left_out.append(str(relative))
            continue
        if not is_plain(item) and not is_pickle(item):
            message = (
                f"{shown(item, 300)} is not taken into the registry: a checkpoint is made of {', '.join(sorted(SAFE))} files, and of "
                "weights and dictionaries as they are published. Leave it out of the folder."
            )
            raise ModelError(message)
        if not item.is_file():
            message = f"{item} is not a plain file; leave it out of the folder."
            raise ModelError(message)
        if item.is_symlink() and not item.resolve().is_relative_to(path.resolve()):
            message = f"{item} is a link that leads out of the folder; put the file itself there."
            raise ModelError(message)
        found.append(relative)
    return found, left_out


def is_plain(item: Path) -> bool:
    """Whether a file is, by its name, of a kind that cannot hold code, or the text of a licence."""
    return item.suffix.lower() in SAFE or is_licence(item)


def is_taken(item: Path) -> bool:
    """Whether a file of this name goes into a version, as far as its name tells."""
    known = is_plain(item) or is_pickle(item)
    return known and not any(item.match(pattern) for pattern in _TRAINING)


def _is_copy(item: Path) -> bool:
    """Whether these are weights that lie beside in safetensors as well, as Hugging Face publishes them."""
    return item.name == "pytorch_model.bin" and item.with_name("model.safetensors").is_file()


def _is_serving(item: Path) -> bool:
    """Whether a registry has put this beside a version's files for MLflow: the folder of a version is taken anew without it."""
    listed = item.with_name(manifest.FILENAME)
    if item.name not in (manifest.SERVING, manifest.NOTE) or not listed.is_file():
        return False
    return manifest.is_of_mlflow(item, f"sha256:{manifest.sha256(listed)}")


def copy(places: Mapping[str, Path], private: Path, path: Path, *, cancel: Any = None) -> None:
    """Copy files into the private folder: relative path there → file.

    Raises
    ------
    StorageError
        There is not enough room.
    ModelError
        A file cannot be read.
    Cancelled
        `cancel` was set.
    """
    need = sum(place.stat().st_size * (2 if is_pickle(place) else 1) for place in places.values())
    free = shutil.disk_usage(private).free
    # The private copy and the registry's own lie side by side for a moment.
    if free < 2 * need + 2**20:
        message = (
            f"Registering {path} takes {2 * need / 2**20:,.1f} MiB and {free / 2**20:,.1f} MiB are free at {private.parent}. "
            "Free some space, or set SCFM_HOME to a directory on a larger disk."
        )
        raise StorageError(message)
    for relative, place in places.items():
        stop_if(cancel)
        target = private / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(place, target)
        except OSError as error:
            if error.filename != str(place):
                raise
            message = f"{place} cannot be read ({error.strerror}). Look at its permissions, or get it again."
            raise ModelError(message) from error
