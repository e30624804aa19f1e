"""scGPT's files as published: which is which, and the order of its vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_lab.models.converted import is_stored, listed
from scfm_lab.models.files import read_config
from scfm_lab.models.tensor_names import tensor_names

if TYPE_CHECKING:
    from collections.abc import Mapping

ARGS, VOCAB, WEIGHTS_FILE = "args.json", "vocab.json", "best_model.pt"
#: Entries of ``args.json`` that are read.
SETTINGS = ("embsize", "nheads", "nlayers", "d_hid", "input_emb_style", "pad_token", "pad_value")
SPECIALS = ("<cls>", "<eoc>")


def is_scgpt(weights: Path) -> bool:
    """Whether a weights file names scGPT's tensors; opens no weights."""
    # Parallel training writes "module." before each name.
    return any(name.endswith("encoder.enc_norm.weight") for name in tensor_names(weights))


def places(path: Path, files: Mapping[str, Any] | None) -> tuple[Path, Path, Path]:
    """Of args.json, vocab.json and the weights.

    Raises
    ------
    ModelError
        If one is missing.
    """
    given = {name: Path(str(value)) for name, value in (files or {}).items()}
    unknown = sorted(set(given) - {"args", "vocab", "weights"})
    if unknown:
        raise ModelError(f"files= names {', '.join(unknown)}; scGPT has 'args', 'vocab' and 'weights'.")
    folder = path if path.is_dir() else path.parent
    weights = given.get("weights", folder / WEIGHTS_FILE if path.is_dir() else path)
    if not is_stored(weights) and "weights" not in given:
        others = listed(folder, "*.pt")
        if len(others) == 1:
            weights = others[0]
    found = given.get("args", folder / ARGS), given.get("vocab", folder / VOCAB), weights
    missing = [p.name for p in found if not is_stored(p)]
    if missing:
        raise ModelError(
            f"{folder} looks like scGPT and has no {' and no '.join(missing)}; give the folder as published "
            f"({ARGS}, {VOCAB}, {WEIGHTS_FILE})."
        )
    return found


def tokens_by_id(path: Path) -> list[str]:
    """Token of each id in a vocabulary; the file's order is not the ids' order.

    Raises
    ------
    ModelError
        If the ids are not 0 to n - 1, each once.
    """
    content = read_config(path.parent, path.name)
    # In sets, since there are sixty thousand each time that a model is opened.
    if set(map(type, content.values())) - {int}:
        wrong = next(k for k, v in content.items() if type(v) is not int)
        raise ModelError(f"{path} gives {wrong!r} the id {content[wrong]!r}, which is no whole number.")
    by_id = dict(zip(content.values(), content, strict=True))
    if by_id.keys() != set(range(len(content))):
        raise ModelError(
            f"The {len(content):,} ids in {path} are not 0 to {len(content) - 1:,}, each once; get the file again."
        )
    return list(map(by_id.__getitem__, range(len(content))))


def with_specials(tokens: list[str], pad: str, rows: int, path: Path) -> list[str]:
    """The tokens of an embedding's rows: those of the vocabulary at `path`, and special ones that it does not name.

    Raises
    ------
    ModelError
        If special tokens are missing, or there are not as many tokens as rows.
    """
    known = set(tokens)
    missing = [name for name in (pad, *SPECIALS) if name not in known]
    # The reference appends missing special tokens; a file saved after that has their rows.
    if missing and len(tokens) + len(missing) == rows:
        return tokens + missing
    if len(tokens) != rows:
        raise ModelError(
            f"{path} names {len(tokens):,} tokens, the embedding has {rows:,} rows; the files do not belong together."
        )
    # The reference would append one that the embedding has no row for, and leave its whole embedding random.
    if missing:
        raise ModelError(
            f"{path} has no {' and no '.join(missing)}, and the embedding no row for it; give the vocabulary that belongs to the "
            "weights."
        )
    return tokens
