"""Whether the weights in a file are finite: looked through block by block, so that nothing of a mapped file stays in memory."""

from __future__ import annotations

import sys
import zipfile
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    import torch

_BLOCK = 1 << 24
_LOCAL_HEADER = 30


def check_finite(weights: Mapping[str, torch.Tensor], path: Path, *, mapped: Iterable[torch.Tensor] = ()) -> None:
    """Refuse weights that hold NaN or infinity, or what would be infinity in float32, in which they are computed with.

    Parameters
    ----------
    mapped
        All tensors of a torch archive that is mapped into memory: they are read from the file itself, since pages that are
        looked at through the mapping would stay.

    Raises
    ------
    ModelError
        Naming the first tensor; or if the archive is damaged.
    """
    try:
        begin = _begin(list(mapped), path)
    # torch reads past names and checksums that are damaged; zipfile meets them in many ways.
    except Exception as error:
        raise ModelError(f"{path} is damaged ({error}); get the file again.") from error
    with path.open("rb") as file:
        for name, tensor in weights.items():
            if not tensor.is_floating_point() or not tensor.numel():
                continue
            parts = tensor.reshape(-1).split(_BLOCK) if begin is None else _parts(file, tensor, begin)
            if not all(map(_finite, parts)):
                raise ModelError(
                    f"{path} holds NaN or infinite values in {name!r} (as float32); the weights cannot be used."
                )


def _finite(part: torch.Tensor) -> bool:
    import torch

    if part.dtype == torch.float64:
        return bool(torch.isfinite(part.to(torch.float32)).all())
    # One pass without a temporary. Each NaN and infinity is in the sum; where it has overflowed each element is looked at.
    return bool(torch.isfinite(part.sum(dtype=torch.float32))) or bool(torch.isfinite(part).all())


def _parts(file: BinaryIO, tensor: torch.Tensor, begin: int) -> Iterator[torch.Tensor]:
    """The numbers of a tensor as they stand in its file; of one that is not contiguous all that it is a view of."""
    import torch

    storage = tensor.untyped_storage()
    start, size = (
        (tensor.data_ptr(), tensor.numel() * tensor.element_size())
        if tensor.is_contiguous()
        else (storage.data_ptr(), storage.nbytes())
    )
    file.seek(start - begin)
    for rest in range(size, 0, -_BLOCK):
        yield torch.frombuffer(bytearray(file.read(min(rest, _BLOCK))), dtype=tensor.dtype)


def _begin(tensors: list[torch.Tensor], path: Path) -> int | None:
    """The address that the begin of a mapped archive has; None where it is not mapped, or not as it stands."""
    storages = {s.data_ptr(): s.nbytes() for s in (tensor.untyped_storage() for tensor in tensors) if s.nbytes()}
    if not storages:
        return None
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        entries = archive.infolist()
        order = [archive.read(entry) for entry in entries if entry.filename.endswith("/byteorder")]
        records = sorted(
            (entry for entry in entries if entry.filename.split("/")[-2:-1] == ["data"] and entry.file_size),
            key=lambda entry: entry.header_offset,
        )
        # Storages lie in memory as their records in the file; first and last say whether it is so.
        if len(records) != len(storages) or order not in ([], [sys.byteorder.encode()]):
            return None
        first, last = (_data_offset(file, records[i].header_offset) for i in (0, -1))
    begin = min(storages) - first
    same = [storages[address] for address in sorted(storages)] == [entry.file_size for entry in records]
    return begin if same and max(storages) - last == begin else None


def _data_offset(file: BinaryIO, header: int) -> int:
    file.seek(header)
    local = file.read(_LOCAL_HEADER)
    return header + _LOCAL_HEADER + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
