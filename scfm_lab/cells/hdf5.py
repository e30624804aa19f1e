"""What is wrong with an HDF5 file before anything of it is read: data in other files, and sizes that its bytes do not explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_DEEPEST = 32
#: What a data set may unfold to for each byte that it takes: no packing that HDF5 has gives more, on numbers that mean something.
_TIMES = 2_000
_SMALL = 2**28
#: HDF5 unpacks a chunk as a whole.
_LARGEST_CHUNK = 2**30


def faults(group: Any, name: str = "", depth: int = 0) -> Iterator[str]:
    """Say what is wrong with an opened file or group, in words that go on after its path; nothing where all is well.

    Links within the file are followed by nobody, since what they lead to is looked at where it lies.
    """
    import h5py  # type: ignore[import-untyped]

    if depth > _DEEPEST:
        yield "has groups in groups without end"
        return
    for key in group:
        link = group.get(key, getlink=True)
        place = f"{name}/{key}"
        if isinstance(link, h5py.ExternalLink):
            yield f"leads to another file at {place} ({link.filename})"
        elif not isinstance(link, h5py.SoftLink):
            item = group[key]
            if isinstance(item, h5py.Group):
                yield from faults(item, place, depth + 1)
            elif isinstance(item, h5py.Dataset):
                yield from _of_data(item, place)


def _of_data(item: Any, place: str) -> Iterator[str]:
    if item.external or item.is_virtual:
        yield f"keeps {place} in another file"
        return
    taken = int(item.id.get_storage_size())
    if item.nbytes > max(_SMALL, _TIMES * taken):
        yield f"says that {place} holds {item.nbytes / 2**30:,.1f} GiB, of which {taken:,} bytes are there"
    elif item.chunks is not None:
        chunk = item.dtype.itemsize
        for length in item.chunks:
            chunk *= int(length)
        if chunk > _LARGEST_CHUNK:
            yield f"keeps {place} in parts of {chunk / 2**30:,.1f} GiB, each of which has to be unpacked as a whole"
