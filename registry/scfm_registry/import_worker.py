"""The process that reads what somebody brings: ``python -m scfm_registry.import_worker < request`` (:mod:`scfm_registry.workers`).

It locks itself (:mod:`scfm_registry.confining`) before it reads the first byte of a file, converts what is pickled, opens the
model from what it wrote, and prints one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_GIB = 2**30
#: Bytes of memory for each byte of files: read, copied, written and opened; and for PyTorch itself.
_TIMES, _REST = 8, 6 * _GIB
_SECONDS, _BYTES_A_SECOND = 600, 2**20


def main(arguments: list[str]) -> int:
    """Answer the request on standard input, or, with ``--serve N``, those that come over socket N."""
    if not arguments:
        return answer(sys.stdin.read())
    from scfm_registry import workers

    _prepare()
    return workers.serve(int(arguments[1]), answer)


def _prepare() -> None:
    """Import what takes long: none of it looks at the files that are brought, and the locks would keep it out afterwards."""
    from scfm_lab import models

    own = [f"{models.__name__}.{module.name}" for module in pkgutil.iter_modules(models.__path__)]
    for module in (
        "torch",
        "h5py",
        "pandas",
        "scipy.sparse",
        "yaml",
        "scfm_registry.importing",
        "scfm_registry.sharing.parents",
        *own,
    ):
        importlib.import_module(module)


def answer(text: str) -> int:
    """Print the answer to a request."""
    from scfm_lab.errors import ScfmError, StorageError

    request = json.loads(text)
    try:
        found = work(request)
    except ScfmError as error:
        found = {"error": str(error), "storage": isinstance(error, StorageError)}
    except (MemoryError, RecursionError) as error:
        folder = request["folder"]
        found = {"error": f"The files in {folder} need more memory than their size explains ({type(error).__name__})."}
    except OSError as error:
        found = {"error": f"{error.filename or request['folder']}: {error.strerror or error}.", "storage": True}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Convert, open, and say what the model is."""
    # What has to be imported is imported before the locks close.
    _prepare()
    from scfm_lab.models.finetuned import is_finetuned, whole_identity
    from scfm_lab.models.load import open_files
    from scfm_lab.models.pinned import pinned
    from scfm_lab.plugins import discover
    from scfm_registry import confining, estimating, importing, licences, tuned, version
    from scfm_registry.sharing import parents

    folder = Path(request["folder"])
    family = discover().get("models", request["family"])
    adapter = family.load()
    places = request.get("parents") or {}
    size = _size(folder)
    # What was fine-tuned is opened with what it was made from.
    opened = size + sum(_size(Path(place["folder"])) for place in places.values())
    locks = confining.lock(
        memory=_TIMES * opened + _REST, written=2 * size + _GIB // 16, seconds=_SECONDS + 8 * opened // _BYTES_A_SECOND
    )
    # Of a version that is there: what is read has these hashes, or is refused.
    pins = {folder / name: digest for name, digest in (request.get("hashes") or {}).items()}
    if request.get("as_registered"):
        converted, config = {}, _registered(folder, sorted(pins))
    else:
        # A record that came with the files is nobody's word here: it would set what the model is opened with.
        (folder / importing.RECORD).unlink(missing_ok=True)
        converted, config = convert(folder), request["config"]
        record = {"converted": converted, "config": config}
        if any(record.values()):
            text = json.dumps({"schema": 1, **record}, indent=1, sort_keys=True)
            (folder / importing.RECORD).write_text(text + "\n", encoding="utf-8")
    with pinned(pins, request["family"], known=False):
        if is_finetuned(folder):
            with parents.beside(places):
                model = open_files(folder, family.id, config=config or None)
        else:
            model = adapter.open(folder, config=config or None)
    tags = version.tags(
        model.spec,
        kind=request["kind"] if model.finetuning is None or request.get("as_registered") else tuned.KIND,
        family=family.id,
        origin="import",
        # What was fine-tuned takes, opened, what it was made from takes.
        weight_bytes=max(
            importing.weight_bytes(Path(place)) for place in (folder, *(p["folder"] for p in places.values()))
        ),
        peak_mib=estimating.peak_mib(model),
        tasks=family.data.get("tasks", ()),
        parameter_free=bool(family.data.get("parameter_free")),
        licence=request["licence"],
        inherited=request.get("inherited"),
        card=licences.in_cards(folder) or request.get("published") or "",
        # A bundle tells what its version's licence allows, and what lay beside the weights was looked at there.
        beside="" if request.get("as_registered") else licences.in_file(folder),
    )
    if model.digest:
        tags["scfm.weights"] = model.digest if model.finetuning else model.published_digest(hashes(folder, converted))
        # What results made with it will name.
        tags["scfm.stored_weights"] = model.digest
    if model.finetuning is not None:
        tags |= tuned.tags(model.finetuning.record)
        if whole := whole_identity(folder, published(folder, converted)):
            tags["scfm.whole"] = whole
    if model.finetuning is not None and model.finetuning.record["parent"]["digest"]:
        tags["scfm.parent_digest"] = parent_digest(model.finetuning.record, folder)
    return {"tags": tags, "locks": locks}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def parent_digest(record: dict[str, Any], folder: Path) -> str:
    """Digest of what the fine-tuned model in a folder was made from, by its record, which is anybody's.

    Raises
    ------
    ModelError
        What stands there is none.
    """
    from scfm_lab.errors import ModelError
    from scfm_lab.models.finetuned import RECORD
    from scfm_registry import manifest

    found = str(record["parent"]["digest"])
    if not manifest.is_digest(found):
        raise ModelError(f"{folder / RECORD} names what it was made from by no digest; get the file again.")
    return found


def _registered(folder: Path, listed: Sequence[Path] = ()) -> dict[str, Any]:
    """Check the files of a version that another registry has made, which stay as they are; what it is opened with.

    Parameters
    ----------
    folder
        Of the version.
    listed
        Its files, where others lie beside them.

    Raises
    ------
    ModelError
        One is of a kind that no registry keeps.
    """
    from scfm_lab.errors import ModelError
    from scfm_lab.models import converted
    from scfm_registry import importing

    for path in listed or sorted(p for p in folder.rglob("*") if p.is_file()):
        if converted.is_pickle(path) or not importing.is_plain(path):
            raise ModelError(f"{path} is of a kind that no registry keeps; nothing of it was read.")
        _check_plain(path)
    return importing.config_of(folder)


def convert(folder: Path) -> dict[str, dict[str, Any]]:
    """Replace every pickle by what it holds, in safetensors or JSON; published name → its SHA-256 and size, and the new name.

    Raises
    ------
    ModelError
        One holds code, or something else that is no plain data; an HDF5 file leads to another file.
    """
    from scfm_lab.errors import ModelError
    from scfm_lab.models import converted
    from scfm_lab.models.files import read_pickle, read_torch, sha256

    done = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        _check_plain(path)
        if not converted.is_pickle(path):
            continue
        if converted.stored(path) != path or path.with_name(path.name + converted.SAFETENSORS).exists():
            raise ModelError(f"{path} lies there twice, as published and converted; leave one of them out.")
        size, digest = path.stat().st_size, sha256(path)
        plain = path.suffix in (".pkl", ".pickle") or path.name in converted.UNNAMED
        content, training = converted.without_training(read_pickle(path) if plain else read_torch(path))
        written = converted.write(content, path)
        path.unlink()
        name = path.relative_to(folder).as_posix()
        done[name] = {"sha256": digest.removeprefix("sha256:"), "size": size, "stored_as": written.name}
        if training:
            done[name]["left_out"] = training
    return done


def hashes(folder: Path, done: dict[str, dict[str, Any]]) -> dict[Path, str]:
    """SHA-256 of the files that :func:`convert` has converted, by the paths of the new ones.

    What a file says of its own origin is not believed.
    """
    return {(folder / name).with_name(told["stored_as"]).resolve(): told["sha256"] for name, told in done.items()}


def published(folder: Path, done: dict[str, dict[str, Any]]) -> dict[str, str]:
    """SHA-256 of all files of a folder as they were before :func:`convert`, by their names then."""
    from scfm_registry import manifest

    new = set(hashes(folder, done))
    found = {name: str(told["sha256"]) for name, told in done.items()}
    kept = (path for path in folder.rglob("*") if path.is_file() and path.resolve() not in new)
    return found | {path.relative_to(folder).as_posix(): manifest.sha256(path) for path in kept}


def _check_plain(path: Path) -> None:
    """Look through a file of a kind that is kept as it is."""
    if path.suffix in (".h5", ".h5ad"):
        _check_hdf5(path)
    elif path.suffix == ".safetensors":
        _check_header(path)
    elif path.suffix == ".npy":
        _check_array(path)


def _check_header(path: Path) -> None:
    """Refuse safetensors whose list names a tensor twice: two readers would see two models."""
    from scfm_lab.errors import ModelError
    from scfm_lab.models.pinned import once

    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        # What is no list at all is told by the reader of tensors.
        if size <= min(_GIB // 8, path.stat().st_size):
            try:
                json.loads(file.read(size), object_pairs_hook=once)
            except (UnicodeDecodeError, json.JSONDecodeError):
                return
            except ValueError as error:
                raise ModelError(f"{path} names something twice in its list of tensors; get the file again.") from error


def _check_array(path: Path) -> None:
    """Refuse arrays of Python objects, which are pickles in another file."""
    import numpy as np

    from scfm_lab.errors import ModelError

    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ModelError(
            f"{path} holds objects, or is no array of numbers ({error}); nothing of it was read."
        ) from error


def _check_hdf5(path: Path) -> None:
    """Refuse files whose data lies in other files, which could be anybody's."""
    import h5py  # type: ignore[import-untyped]

    from scfm_lab.cells.hdf5 import faults
    from scfm_lab.errors import ModelError

    try:
        with h5py.File(path, "r") as file:
            for fault in faults(file):
                raise ModelError(f"{path} {fault}; nothing of it was read.")
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ModelError(f"{path} is damaged or no HDF5 file ({error}). Get the file again.") from error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
