"""Published pickles as safetensors and JSON: the same content, in formats that cannot hold code.

``models.ckpt`` becomes ``models.ckpt.safetensors`` and ``species_offsets.pkl`` becomes
``species_offsets.pkl.json``: the published name with one more ending. Families speak of files by
their published names alone; :func:`stored` and :func:`listed` find what was converted.

Tensors, and arrays of numbers, are stored as such. What holds them (dicts, lists, text, numbers) is
written down beside them as JSON, in which a tensor stands as its name.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError, ScfmError
from scfm_lab.models.pinned import pins_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch

SAFETENSORS, JSON = ".safetensors", ".json"
#: Endings of published files that are pickles.
PICKLED = frozenset({".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth", ".torch"})
#: Pickles that are published without an ending.
UNNAMED = frozenset({"label", "label_dict"})
_TREE = "scfm.tree"
_MOST = 2_000_000
_TRAINING = frozenset({"optimizer", "optimizers", "optim", "scheduler", "schedulers", "lr"})


def is_pickle(path: Path) -> bool:
    """Whether a file is, by its name, one that is read by building objects."""
    return path.suffix.lower() in PICKLED or path.name in UNNAMED


def stored(path: Path) -> Path:
    """The file that holds the content of a published one: itself, or what it was converted to."""
    if not path.exists() and is_pickle(path):
        for ending in (SAFETENSORS, JSON):
            other = path.with_name(path.name + ending)
            if other.is_file():
                return other
    return path


def is_stored(path: Path) -> bool:
    """Whether a published file is there, as it was or converted."""
    return stored(path).is_file()


def listed(folder: Path, pattern: str = "*") -> list[Path]:
    """Published names that match a pattern, of the files of a folder, sorted; those of converted files among them."""
    found = {path for path in folder.glob(pattern) if path.is_file()}
    for ending in (SAFETENSORS, JSON):
        published = (path.with_name(path.name[: -len(ending)]) for path in folder.glob(f"*{ending}"))
        found |= {path for path in published if is_pickle(path) and path.match(pattern)}
    # A file that was converted where it lies counts as it was.
    return sorted(path for path in found if not (_origin(path) and _origin(path) in found))


def _origin(path: Path) -> Path | None:
    if path.suffix in (SAFETENSORS, JSON):
        published = path.with_suffix("")
        return published if is_pickle(published) else None
    return None


def is_converted(path: Path) -> bool:
    """Whether a file was made by :func:`write`, by its name."""
    return _origin(path) is not None


def write(content: Any, published: Path) -> Path:
    """Write the content of a published file beside it, under its name and one more ending.

    Parameters
    ----------
    content
        What :func:`~scfm_lab.models.files.read_torch` or :func:`~scfm_lab.models.files.read_pickle` gave.
    published
        The path that the published file has, or would have.

    Returns
    -------
    Path
        ``….safetensors`` if there are tensors or arrays of numbers, else ``….json``.

    Raises
    ------
    ModelError
        If something is neither tensors, containers, text nor numbers.
    """
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    tree = _taken_apart(content, tensors, published, "")
    if not tensors:
        target = published.with_name(published.name + JSON)
        target.write_text(json.dumps(tree, ensure_ascii=False, sort_keys=False), encoding="utf-8")
        return target
    target = published.with_name(published.name + SAFETENSORS)
    save_file(tensors, target, metadata={_TREE: json.dumps(tree, ensure_ascii=False)})
    return target


def without_training(content: Any) -> tuple[Any, list[str]]:
    """The content of a file without what only a training reads (states of optimisers and schedulers), and the names of that.

    Nothing is left out of a file that holds nothing else.
    """
    if not isinstance(content, dict):
        return content, []
    left = [key for key in content if isinstance(key, str) and key.split("_")[0].lower() in _TRAINING]
    left = [key for key in left if isinstance(content[key], (dict, list))]
    if not left or len(left) == len(content):
        return content, []
    return {key: value for key, value in content.items() if key not in left}, left


def read(path: Path) -> Any:
    """The content that :func:`write` wrote.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    from scfm_lab.models.files import read_safetensors

    try:
        if path.suffix == JSON:
            return _put_together(json.loads(path.read_text(encoding="utf-8")), {})
        tensors = read_safetensors(path, finite=False)
        pins = pins_of(path)
        # Of the bytes that were hashed, where they were: the file is not looked at a second time.
        tree = _tree(path) if pins is None else json.loads(pins.metadata(path)[_TREE])
        return _put_together(tree, tensors)
    except ScfmError:
        # It has said already what is wrong, and is a ValueError or an OSError too.
        raise
    except (KeyError, ValueError, TypeError, OSError, RecursionError) as error:
        raise ModelError(f"{path} is damaged ({error}); import the checkpoint again.") from error


def names(path: Path) -> frozenset[str]:
    """All keys in a converted file, without opening its tensors; empty if it cannot be read."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8")) if path.suffix == JSON else _tree(path)
    except (KeyError, ValueError, TypeError, OSError):
        return frozenset()
    return frozenset(_keys(tree))


def _tree(path: Path) -> Any:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > 1 << 28:
            raise ValueError("its header is too large")
        return json.loads(json.loads(file.read(size))["__metadata__"][_TREE])


# --- taking apart, putting together ----------------------------------------------------------
#
# {"d": [[key, value], …]}  {"l": […]}  {"t": […] (tuple)}  {"x": name of a tensor}  {"a": name of an array}
# {"o": [shape, […]] (array of text)}
# text, numbers, true, false and null stand for themselves. A dict of text to plain values stands for itself too.


def _taken_apart(value: Any, tensors: dict[str, torch.Tensor], path: Path, where: str) -> Any:
    import torch

    if isinstance(value, (np.bool_, np.integer, np.floating)):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return _tensor(value, tensors, path, where)
    if len(tensors) > _MOST:
        raise ModelError(f"{path} holds more than {_MOST:,} tensors; no published checkpoint does that.")
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and _is_plain(value.values()) and len(value) != 1:
            return {key: _taken_apart(v, tensors, path, where) for key, v in value.items()}
        return {
            "d": [
                [_taken_apart(k, tensors, path, where), _taken_apart(v, tensors, path, _below(where, k))]
                for k, v in value.items()
            ]
        }
    if isinstance(value, (list, tuple)):
        parts = [_taken_apart(v, tensors, path, _below(where, i)) for i, v in enumerate(value)]
        return {"t" if isinstance(value, tuple) else "l": parts}
    raise ModelError(f"{path} holds a {type(value).__name__} at {where or 'its root'}, which is no plain data.")


def _is_plain(values: Any) -> bool:
    plain = (bool, int, float, str, np.bool_, np.integer, np.floating, type(None))
    return all(isinstance(value, plain) for value in values)


def _below(where: str, key: Any) -> str:
    return f"{where}/{key}" if where else str(key)


def _tensor(value: Any, tensors: dict[str, torch.Tensor], path: Path, where: str) -> Any:
    import torch

    if isinstance(value, np.ndarray):
        if value.dtype.kind in "UO":
            flat = [_taken_apart(v, tensors, path, where) for v in value.ravel().tolist()]
            return {"o": [list(value.shape), flat]}
        try:
            tensor, kind = torch.from_numpy(np.ascontiguousarray(value)), "a"
        except TypeError:
            raise ModelError(f"{path} holds an array of {value.dtype} at {where or 'its root'}.") from None
    else:
        tensor, kind = value.detach(), "x"
    name = where or "value"
    while name in tensors:
        name += "'"
    # Views of one storage become tensors of their own.
    tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
    return {kind: name}


def _put_together(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if not isinstance(tree, dict):
        if isinstance(tree, list):
            raise ValueError("a list stands where none is written")
        return tree
    if len(tree) == 1:
        ((kind, value),) = tree.items()
        if kind == "d":
            return {_put_together(k, tensors): _put_together(v, tensors) for k, v in value}
        if kind in ("l", "t"):
            parts = [_put_together(v, tensors) for v in value]
            return tuple(parts) if kind == "t" else parts
        if kind == "x":
            return tensors[value]
        if kind == "a":
            return tensors[value].numpy()
        if kind == "o":
            flat = np.empty(len(value[1]), dtype=object)
            flat[:] = [_put_together(v, tensors) for v in value[1]]
            return flat.reshape(value[0])
    return {key: _put_together(value, tensors) for key, value in tree.items()}


def _keys(tree: Any) -> Any:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, list):
        for part in tree:
            yield from _keys(part)
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from _keys(value)
