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

    Symbolic links are followed last: by then nothing leads to another file, so that no path through one of them does.
    """
    look = _Look()
    things, unexplained = yield from look.of(file["/"], "", 0)
    if look.found:
        return
    if look.soft:
        look = _Look(follow=True)
        things, unexplained = yield from look.of(file["/"], "", 0)
    if things > _MOST:
        yield f"leads to its groups and data sets in {things:,} ways"
    if unexplained > _SMALL:
        yield f"says that its data sets hold {unexplained / 2**30:,.1f} GiB more than its bytes explain"


class _Look:
    """One look through a file: every thing and all below it once, however many links lead there."""

    def __init__(self, *, follow: bool = False) -> None:
        self.follow, self.found, self.soft = follow, False, False
        self._known: dict[tuple[int, int], tuple[int, int] | None] = {}

    def of(self, item: Any, place: str, depth: int) -> Generator[str, None, tuple[int, int]]:
        """Look at a thing and all below it.

        Gives how many things a reader meets who goes every way, and how many bytes that the file does not explain.
        """
        import h5py  # type: ignore[import-untyped]

        info = h5py.h5o.get_info(item.id)
        address = (info.fileno, info.addr)
        met = self._known.get(address)
        if met is not None:
            return met
        # One that is not done yet holds itself.
        if address in self._known or depth > _DEEPEST:
            yield self._fault(f"has groups in groups without end at {place}")
            return 1, 0
        self._known[address] = None
        things, unexplained = 1, 0
        if isinstance(item, h5py.Dataset):
            for fault in _of_data(item, place):
                yield self._fault(fault)
            unexplained = _unexplained(item)
        elif isinstance(item, h5py.Group):
            for key in item:
                link, where = item.get(key, getlink=True), f"{place}/{key}"
                if isinstance(link, h5py.ExternalLink):
                    yield self._fault(f"leads to another file at {where} ({link.filename})")
                    continue
                if isinstance(link, h5py.SoftLink):
                    self.soft = True
                    if not self.follow:
                        continue
                try:
                    below = item[key]
                except (KeyError, OSError, RuntimeError):
                    if not isinstance(link, h5py.SoftLink):
                        raise
                    yield self._fault(f"has a link at {where} that leads nowhere, or in a circle ({link.path})")
                    continue
                more = yield from self.of(below, where, depth + 1)
                things, unexplained = things + more[0], unexplained + more[1]
        self._known[address] = things, unexplained
        return things, unexplained

    def _fault(self, words: str) -> str:
        self.found = True
        return words


def _of_data(item: Any, place: str) -> Iterator[str]:
    """What is wrong with a data set."""
    if _elsewhere(item):
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


def _unexplained(item: Any) -> int:
    """Bytes that a data set unfolds to beyond what its own explain."""
    return 0 if _elsewhere(item) else max(0, int(item.nbytes) - _TIMES * int(item.id.get_storage_size()))


def _elsewhere(item: Any) -> bool:
    return bool(item.external or item.is_virtual)
