"""Read the files of a checkpoint: configurations, safetensors, torch archives, dictionaries, digests.

No code in a file is ever run: tensors come through safetensors or torch's reader of tensors
alone, dictionaries in pickles through a reader that knows nothing but containers, text and
numbers. What does not fit is refused by name; there is no other way in behind it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import is_converted, read, stored
from scfm_lab.models.finite import check_finite
from scfm_lab.models.pinned import owned, pins_of
from scfm_lab.models.sharded import is_index, read_sharded, shards
from scfm_lab.models.tensor_names import is_archive, is_safetensors, named_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_WRAPPERS = ("model_state_dict", "state_dict")
_WRAPPED = ("module.", "_orig_mod.")
# What torch may build while it reads is a setting of the whole process: two threads would take it from each other.
_ALONE = threading.Lock()


def sha256(path: Path, published: Mapping[Path, str] | None = None) -> str:
    """``sha256:<hex>`` of a file's bytes; of a published file that was converted, of what it was converted to.

    `published` has the SHA-256 of what some of these were converted from, by the resolved paths of what they were converted to.
    """
    path = stored(path)
    if published and path.resolve() in published:
        return f"sha256:{published[path.resolve()]}"
    pins = pins_of(path)
    if pins is not None:
        return f"sha256:{pins.hash_of(path)}"
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(*paths: Path, published: Mapping[Path, str] | None = None) -> str:
    """``sha256:<hex>`` of the files that a model's tensors are read from: of one file its own, of several that of theirs.

    An index stands for the files that it names; `published` as for :func:`sha256`.
    """
    parts = [sha256(part, published) for path in paths for part in (shards(path) if is_index(path) else [path])]
    return parts[0] if len(parts) == 1 else "sha256:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """A checkpoint's JSON configuration.

    Raises
    ------
    ModelError
        If it is missing or not a JSON object.
    """
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"The checkpoint {folder} has no {name}; give the folder as published.") from None
    # ValueError: what is no text or no JSON, and numbers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); get the file again.") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} does not hold a JSON object; get the file again.")
    return config


def names_family(folder: Path, family: str) -> bool:
    """Whether a folder has weights and a configuration that names this family, as the project's own models have."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return (folder / WEIGHTS).is_file() and config.get("family") == family
    except (ValueError, AttributeError, OSError):
        return False


def read_safetensors(path: Path, *, finite: bool = True) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file.

    Parameters
    ----------
    finite
        Whether NaN and infinity are refused; whoever knows which tensors are weights looks for himself.

    Raises
    ------
    ModelError
        If the file is missing, truncated, not in that format, or holds NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.exists():
        raise ModelError(f"The checkpoint {path.parent} has no {path.name}; give the folder as published.")
    try:
        pins = pins_of(path)
        tensors = load_file(path) if pins is None else pins.tensors(path)
    except ModelError:
        raise
    except (SafetensorError, ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"{path} is damaged or no safetensors file ({path.stat().st_size:,} bytes; {error}). Get the file again."
        ) from error
    if pins is not None and pins.known:
        return tensors
    _check_tensors(tensors, path)
    if finite:
        check_finite(tensors, path)
    return tensors


def read_torch(path: Path, *, finite: bool = True) -> Any:
    """What ``torch.save`` wrote, as far as it is tensors, containers, text and numbers.

    Parameters
    ----------
    path
        A ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` … file. Archives of torch ≥ 1.6 are mapped into
        memory, not copied.
    finite
        Whether NaN and infinity are refused; not to be asked again of a file that was looked through.

    Returns
    -------
    object
        Usually a dict; tensors on the CPU, in the file's dtype.

    Raises
    ------
    ModelError
        If the file is missing, truncated, no torch archive, holds anything that would have to be
        run or built to be read (it is named, and not run), declares tensors that it does not
        hold, or holds NaN or infinity among its weights.
    """
    import pickle  # noqa: TID251 - only for the name of its error
    import warnings

    import torch

    from scfm_lab.models._pickles import Endless, check_unfolded

    path = stored(path)
    if not path.is_file():
        raise ModelError(f"The checkpoint {path.parent} has no {path.name}; give the files as published.")
    if is_converted(path):
        content = read(path)
        pins = pins_of(path)
        if finite and not (pins is not None and pins.known):
            check_finite(dict(_tensors_in(_weights_in(content))), path)
        return content
    _refuse_in_registered(path)
    archive = is_archive(path)
    if archive:
        _check_archive(path)
    try:
        # weights_only builds tensors and plain containers; everything else is refused.
        with _ALONE, torch.serialization.safe_globals(_numpy_numbers()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the pickle's protocol
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)  # noqa: TID251
    except pickle.UnpicklingError as error:
        raise ModelError(_refusal(path, str(error) + named_code(path))) from error
    except (MemoryError, OverflowError) as error:
        raise ModelError(
            f"{path} ({path.stat().st_size:,} bytes) declares more data than it can hold. Get the file again."
        ) from error
    # A damaged file fails in as many ways as the format has instructions.
    except Exception as error:
        code = named_code(path)
        raise ModelError(_refusal(path, code) if code else _damage(path, "torch checkpoint", error)) from error
    try:
        check_unfolded(content, path.stat().st_size)
    except (Endless, RecursionError) as error:
        raise ModelError(_damage(path, "torch checkpoint", error)) from error
    _check_tensors(dict(_tensors_in(content)), path)
    if finite:
        tensors = [tensor for _, tensor in _tensors_in(content)]
        weights = dict(_tensors_in(_weights_in(content)))
        check_finite(weights, path, mapped=tensors if archive else ())
    return content


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a checkpoint: of a file in safetensors or as ``torch.save`` wrote it, or of the files that an index names.

    A training script may have put it under ``model_state_dict`` or ``state_dict``, and parallel
    training or ``torch.compile`` a prefix before every name (:func:`unwrapped`): all are taken off.

    Raises
    ------
    ModelError
        If the file cannot be read (:func:`read_safetensors`, :func:`read_torch`) or is no dict of
        names to tensors.
    """
    import torch

    if is_index(path):
        return read_sharded(path)
    if is_safetensors(path):
        return unwrapped(read_safetensors(path))
    content = read_torch(path)
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise ModelError(f"{path} holds a {type(content).__name__}, not a state dict (names to tensors).")
    strange = [str(k) for k, v in content.items() if not isinstance(k, str) or not isinstance(v, torch.Tensor)]
    if strange:
        from scfm_lab.models.resemblance import tensor_keys, whose

        family = whose(tensor_keys(content))
        raise ModelError(
            f"{path} is no state dict: {', '.join(strange[:5])}{' …' if len(strange) > 5 else ''} "
            f"{'is no tensor' if len(strange) == 1 else 'are no tensors'}"
            + (f"; it holds the tensors of {family}" if family else "")
            + ". Give the published file."
        )
    return unwrapped(content)


def unwrapped(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors without what parallel training (``module.``) and ``torch.compile`` (``_orig_mod.``) put before every name."""
    out = dict(tensors)
    while out and (wrapper := next((w for w in _WRAPPED if all(name.startswith(w) for name in out)), "")):
        out = {name.removeprefix(wrapper): tensor for name, tensor in out.items()}
    return out


def read_pickle(path: Path) -> Any:
    """A pickled dictionary: containers, text, numbers, and numpy numbers and arrays; nothing else.

    Raises
    ------
    ModelError
        If the file is missing, truncated, or names anything that would have to be run or built
        to be read; nothing of it is run.
    """
    from scfm_lab.models._pickles import Refused, load

    path = stored(path)
    if not path.is_file():
        raise ModelError(f"The file {path} is missing; give the files as published.")
    if is_converted(path):
        return read(path)
    _refuse_in_registered(path)
    try:
        return load(path.read_bytes())
    except Refused as refused:
        raise ModelError(_refusal(path, str(refused))) from refused
    # A damaged pickle fails in as many ways as the format has instructions.
    except Exception as error:
        raise ModelError(_damage(path, "pickle", error)) from error


def _refuse_in_registered(path: Path) -> None:
    """No pickle belongs to a version of a registry: its import has converted them, in a locked process."""
    if owned():
        raise ModelError(
            f"{path} is a pickle, and a version of a registry is opened without any; nothing of it was read. Import the checkpoint "
            "with its files, which converts them."
        )


def require_keys(tensors: dict[str, Any], expected: dict[str, tuple[int, ...]], path: Path) -> None:
    """Refuse a file whose tensors are not those expected.

    Raises
    ------
    ModelError
        Naming the keys that are missing, left over, of another shape, or no floating-point numbers.
    """
    missing = sorted(set(expected) - set(tensors))
    extra = sorted(set(tensors) - set(expected))
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    # Weights that somebody rounded to whole numbers need their scales, which no published file has.
    wrong += [
        f"{name} holds {str(tensors[name].dtype).removeprefix('torch.')}, not floating-point numbers"
        for name in expected
        if name in tensors and not tensors[name].is_floating_point()
    ]
    faults = []
    if missing:
        faults.append(f"missing {_some(missing)}")
    if extra:
        faults.append(f"unknown {_some(extra)}")
    if wrong:
        faults.append(_some(wrong))
    if faults:
        from scfm_lab.models.resemblance import whose

        family = whose(extra) if missing and extra else ""
        raise ModelError(
            f"The weights in {path} do not match the model: {'; '.join(faults)}."
            + (f" Tensors of these names are {family}'s." if family else "")
        )


def _some(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _numpy_numbers() -> list[Any]:
    """What torch's reader of tensors may build besides: numpy numbers, such as losses kept beside the weights."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    return [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype, *kinds]


def _damage(path: Path, what: str, error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0].split(". ")[0].rstrip(".")[:160]
    return (
        f"{path} is damaged or no {what} ({path.stat().st_size:,} bytes; {first or type(error).__name__}). "
        "Get the file again."
    )


def _refusal(path: Path, text: str) -> str:
    import re

    found = re.search(r"(?:GLOBAL|type) ([A-Za-z_][\w.]*)", text)
    if found:
        return (
            f"{path} holds {found.group(1)}, which is code and not data; nothing of it was run. Use the file as "
            "published, or a version of it that holds only tensors and plain values."
        )
    return f"{path} is damaged or no file of plain data ({path.stat().st_size:,} bytes). Get the file again."


def _check_archive(path: Path) -> None:
    """Refuse archives that unpack to more than they are: torch stores, it never compresses."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path} is damaged ({error}); get the file again.") from error
    size = path.stat().st_size
    packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
    if packed or sum(e.file_size for e in entries) > size:
        raise ModelError(
            f"{path} ({size:,} bytes) declares {sum(e.file_size for e in entries):,} bytes of content; no published "
            "checkpoint does that. Get the file again."
        )


def _tensors_in(content: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _tensors_in(value, f"{name}.{key}" if name else str(key))
    elif isinstance(content, (list, tuple, set)):
        for i, value in enumerate(content):
            yield from _tensors_in(value, f"{name}[{i}]")


def _weights_in(content: Any) -> Any:
    """What of a file is weights: where a training script has put them apart, nothing beside them (scores, states of callbacks)."""
    if not isinstance(content, dict):
        return content
    apart = {key: content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)}
    return apart or {key: _weights_in(value) for key, value in content.items()}


def _check_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Refuse tensors that are not plain numbers in memory, and those that declare more of them than there are."""
    import torch

    for name, tensor in tensors.items():
        strange = (
            ("nested" if tensor.is_nested else "")
            or ("quantized" if tensor.is_quantized else "")
            or (f"'{tensor.device.type}'" if tensor.device.type != "cpu" else "")
        )
        if strange:
            raise ModelError(f"{path} holds {name!r} as a {strange} tensor; only plain tensors are read.")
        if tensor.layout != torch.strided:
            raise ModelError(f"{path} holds {name!r} as a {tensor.layout} tensor; only plain tensors are read.")
        declared = tensor.numel() * tensor.element_size()
        if declared > tensor.untyped_storage().nbytes():
            raise ModelError(
                f"{path} declares {declared:,} bytes for {name!r} {tuple(tensor.shape)} and holds "
                f"{tensor.untyped_storage().nbytes():,}. Get the file again."
            )
