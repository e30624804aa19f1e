"""What is wrong with an HDF5 file before anything of it is read: data in other files, and sizes that its bytes do not explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_DEEPEST = 32
#: Groups and data sets that a reader meets who goes every way: more than there are, where links share them.
_MOST = 10_000_000
#: What a data set may unfold to for each byte that it takes: no packing that HDF5 has gives more, on numbers that mean something.
_TIMES = 2_000
_SMALL = 2**28
#: HDF5 unpacks a chunk as a whole.
_LARGEST_CHUNK = 2**30


def faults(file: Any) -> Iterator[str]:
    """Say what is wrong with an opened file, in words that go on after its path; nothing where all is well.

    Symbolic links within the file are followed by nobody, since what they lead to is looked at where it lies.
    """
    things, unexplained = yield from _of(file["/"], "", 0, {})
    if things > _MOST:
        yield f"leads to its groups and data sets in {things:,} ways"
    if unexplained > _SMALL:
        yield f"says that its data sets hold {unexplained / 2**30:,.1f} GiB more than its bytes explain"


def _of(
    item: Any, place: str, depth: int, known: dict[tuple[int, int], tuple[int, int] | None]
) -> Generator[str, None, tuple[int, int]]:
    """Look at a thing and all below it once, however many links lead there.

    Gives how many things a reader meets who goes every way, and how many bytes that the file does not explain.
    """
    import h5py  # type: ignore[import-untyped]

    info = h5py.h5o.get_info(item.id)
    address = (info.fileno, info.addr)
    met = known.get(address)
    if met is not None:
        return met
    # One that is not done yet holds itself.
    if address in known or depth > _DEEPEST:
        yield f"has groups in groups without end at {place}"
        return 1, 0
    known[address] = None
    things, unexplained = 1, 0
    if isinstance(item, h5py.Dataset):
        unexplained = yield from _of_data(item, place)
    elif isinstance(item, h5py.Group):
        for key in item:
            link = item.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield f"leads to another file at {place}/{key} ({link.filename})"
            elif not isinstance(link, h5py.SoftLink):
                below = yield from _of(item[key], f"{place}/{key}", depth + 1, known)
                things, unexplained = things + below[0], unexplained + below[1]
    known[address] = things, unexplained
    return things, unexplained


def _of_data(item: Any, place: str) -> Generator[str, None, int]:
    if item.external or item.is_virtual:
        yield f"keeps {place} in another file"
        return 0
    taken = int(item.id.get_storage_size())
    if item.nbytes > max(_SMALL, _TIMES * taken):
        yield f"says that {place} holds {item.nbytes / 2**30:,.1f} GiB, of which {taken:,} bytes are there"
    elif item.chunks is not None:
        chunk = item.dtype.itemsize
        for length in item.chunks:
            chunk *= int(length)
        if chunk > _LARGEST_CHUNK:
            yield f"keeps {place} in parts of {chunk / 2**30:,.1f} GiB, each of which has to be unpacked as a whole"
    return max(0, int(item.nbytes) - _TIMES * taken)
