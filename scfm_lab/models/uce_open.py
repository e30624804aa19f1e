"""What is said about a checkpoint of UCE beside its tensors, and which token table is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, did_you_mean
from scfm_lab.models.converted import stored
from scfm_lab.models.files import read_torch
from scfm_lab.models.uce_files import Positions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from scfm_lab.models.uce_files import UceFiles

# What a user may say about a checkpoint that its file does not hold, and what is compared with what it does hold.
_SAYS: dict[str, type] = {"nhead": int, "sample_size": int, "chrom_token_offset": int, "species": str}
_HOLDS = ("token_dim", "d_model", "d_hid", "nlayers", "output_dim", "pad_length", "n_tokens_total")
_MAPPED = 1 << 26


def read_settings(config: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``config`` says beyond the file, and what it says that the file holds too."""
    says: dict[str, Any] = {}
    holds: dict[str, Any] = {}
    given: Mapping[str, Any] = config or {}
    for key, value in given.items():
        name = key.lower()
        if name in _HOLDS:
            holds[name] = value
        elif name not in _SAYS:
            known = [*_SAYS, *_HOLDS]
            raise ModelError(
                f"UCE has no setting {key!r}; config= takes {', '.join(known)}." + did_you_mean(name, known)
            )
        elif not isinstance(value, _SAYS[name]) or value is True or value in (0, ""):
            kind = "a positive whole number" if _SAYS[name] is int else "a name"
            raise ModelError(f"config={{{key!r}: {value!r}}} must be {kind}.")
        else:
            says[name] = value
    return says, holds


def compare_settings(stated: Mapping[str, Any], held: Mapping[str, int], path: Path) -> None:
    """Refuse sizes that are not those of the file.

    Raises
    ------
    ModelError
        Naming the first.
    """
    for name, value in stated.items():
        if held[name] != value:
            raise ModelError(f"config says {name} = {value!r}, but {path} has {held[name]:,}.")


def token_table(files: UceFiles, own: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The token table in use: the checkpoint's, unless ``all_tokens.torch`` has another number of rows than it should.

    The published file has the checkpoint's rows, with or without those of the chromosomes; a
    table of another size is that of a new species, and takes the checkpoint's place.
    """
    import torch

    if files.tokens is None:
        return own, False
    width, rows = own.shape[1], len(own)
    size = stored(files.tokens).stat().st_size
    if size > _MAPPED and size // (4 * width) in (rows, 143_574):
        return own, False  # gigabytes of what the checkpoint holds too
    table = read_torch(files.tokens)
    if not isinstance(table, torch.Tensor) or table.ndim != 2 or table.shape[1] != width:
        shape = tuple(table.shape) if isinstance(table, torch.Tensor) else type(table).__name__
        raise ModelError(
            f"{files.tokens} is {shape}, not a table of rows of {width:,} numbers; the files do not belong together."
        )
    without = rows - len(Positions.read(files.chrom).names)
    if len(table) in (rows, without):
        return own, False
    # A longer one is the checkpoint's with a further species; a shorter one that begins alike has lost rows.
    if 4 < len(table) < rows and torch.equal(table[4].float(), own[4].float()):
        raise ModelError(
            f"{files.tokens} ({len(table):,} rows) holds the genes of the checkpoint's own table ({rows:,} rows), but not "
            f"as many, with or without the {rows - without:,} chromosomes of {files.chrom}; the files do not belong together."
        )
    return table, True
