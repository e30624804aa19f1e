"""What AnnData files hold that was made with a version: read from the provenance in ``uns["scfm"]``, and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError, plural
from scfm_lab.results import Result, charts
from scfm_registry import version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd

    from scfm_registry.version import ModelVersion

_COLUMNS = ["file", "key", "slot", "task", "model", "version", "weights", "registered"]


@dataclass(frozen=True, repr=False)
class MadeWith(Result):
    """Keys of files and the versions that made them.

    Attributes
    ----------
    table
        One row per key: file, key, slot, task, model, version (as recorded), weights (SHA-256), registered (the versions here
        with those weights or, where weights are not on record here, of that name and number).
    skipped
        Files that could not be read, with the reason.
    """

    table: pd.DataFrame
    skipped: dict[str, str]
    wanted: str = ""

    def summary(self) -> str:
        """How many keys of how many files."""
        files = self.table["file"].nunique()
        what = f" with {self.wanted}" if self.wanted else ""
        lines = [
            f"{plural(len(self.table), 'key', 'keys')} in {plural(files, 'file', 'files')} made{what}, as far as is recorded."
        ]
        lines += [
            f"  {row.file}: {row.slot}[{row.key!r}] by {row.registered or row.version or row.model}"
            for row in self.table.itertuples()
        ]
        lines += [f"  {file} could not be read: {why}" for file, why in self.skipped.items()]
        return "\n".join(lines)

    def plot(self) -> Any:
        """Keys by version (Altair)."""
        alt = charts()
        return (
            alt.Chart(self.table)
            .mark_bar()
            .encode(x=alt.X("count():Q", title="keys"), y=alt.Y("version:N", title=None))
        )


def made_with(path: Path, known: Sequence[ModelVersion], wanted: ModelVersion | None) -> MadeWith:
    """See :meth:`scfm_registry.Registry.made_with`."""
    import pandas as pd

    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    rows: list[dict[str, str]] = []
    skipped: dict[str, str] = {}
    for file in files(path, skipped):
        shown = str(file.relative_to(path)) if file != path else file.name
        try:
            entries = provenance(file)
        # A damaged file must not hide the others.
        except Exception as error:  # noqa: BLE001
            skipped[shown] = " ".join(str(error).split())[:200] or type(error).__name__
            continue
        for key, entry in entries.items():
            row = {name: str(entry.get(name, "")) for name in ("slot", "task", "model", "version")}
            weights = str(entry.get("weights_sha256", ""))
            found = _versions(weights, row["version"], known)
            if wanted is None or wanted.reference in [item.reference for item in found]:
                registered = ", ".join(item.reference for item in found)
                rows.append({"file": shown, "key": key, **row, "weights": weights, "registered": registered})
    return MadeWith(pd.DataFrame(rows, columns=_COLUMNS), skipped, "" if wanted is None else wanted.reference)


def _versions(weights: str, recorded: str, known: Sequence[ModelVersion]) -> list[ModelVersion]:
    by_weights = [item for item in known if weights and weights in version.weights(item.tags)]
    if by_weights:
        return by_weights
    # Versions of before weights were on record; those that have other weights on record are others.
    return [item for item in known if item.reference == recorded and "scfm.weights" not in item.tags]


def files(path: Path, unread: dict[str, str]) -> Iterator[Path]:
    """The ``.h5ad`` files and Zarr folders at a path and below it; links are not followed.

    Folders that cannot be read go into `unread`, with the reason, and do not hide the others.
    """

    def is_zarr(folder: Path) -> bool:
        return (folder / ".zgroup").is_file() or (folder / "zarr.json").is_file()

    try:
        if path.is_file() or is_zarr(path):
            yield path
            return
        inside = sorted(path.iterdir())
    except OSError as error:
        unread[str(path)] = error.strerror or type(error).__name__
        return
    for item in inside:
        if item.is_symlink():
            continue
        if item.is_dir():
            yield from files(item, unread)
        elif item.suffix == ".h5ad":
            yield item


def provenance(file: Path) -> dict[str, dict[str, Any]]:
    """Read what scfm-lab wrote into a file about how its results were made: key → record; raises whatever its readers raise."""
    from anndata.io import read_elem

    if file.is_dir():
        import zarr

        group: Any = zarr.open_group(str(file), mode="r")
        return _entries(read_elem(group["uns/scfm"])) if "uns" in group and "scfm" in group["uns"] else {}
    import h5py  # type: ignore[import-untyped]

    from scfm_lab.cells.hdf5 import faults

    with h5py.File(file, "r") as opened:
        for fault in faults(opened):
            raise DataError(f"{file} {fault}")
        return _entries(read_elem(opened["uns/scfm"])) if "uns" in opened and "scfm" in opened["uns"] else {}


def _entries(found: Any) -> dict[str, dict[str, Any]]:
    return {str(key): dict(entry) for key, entry in dict(found).items() if hasattr(entry, "keys")}
