"""What the families on the Performer share besides the network: counts in their order of genes, library sizes, batches.

Both were trained on whole transcriptomes normalised by the sum over the genes of the model.
A reduced panel of genes holds only part of a cell's counts, so that ``obs["total_counts_all_genes"]``
is taken as the library size where it is there; ``like_reference`` asks for the reference's sum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.counts import TOTAL_COLUMN
from scfm_lab.cells.hdf5 import faults
from scfm_lab.errors import Cancelled, DataError, ModelError, plural
from scfm_lab.models.contract import aligned_counts
from scfm_lab.models.converted import is_converted, stored
from scfm_lab.models.symbols import SymbolVocabulary, symbol_vocabulary
from scfm_lab.models.tensor_names import tensor_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from scfm_lab.cells.cells import Cells
    from scfm_lab.cells.genes import Genes, Match
    from scfm_lab.inference.engine import Batch
    from scfm_lab.inference.precision import Precision
    from scfm_lab.models.contract import Model
    from scfm_lab.models.published import PublishedMatch
    from scfm_lab.models.tokens import Tokens

LIBRARY_RULE = (
    f"library size: obs[{TOTAL_COLUMN!r}] of the unperturbed cell where it is there, else (and with like_reference) the "
    "sum over the model's genes"
)
# A torch archive begins with its pickle, which holds the names of all tensors.
_HEAD_BYTES = 1 << 23
# No list of genes is longer.
_MOST_GENES = 1_000_000


class SummedSymbols(SymbolVocabulary):
    """Symbols as the reference reads them; columns that fall on one gene are summed, and the audit tells how many."""

    @classmethod
    def of(cls, symbols: NDArray[Any]) -> SummedSymbols:
        """The vocabulary of a list of symbols."""
        known = symbol_vocabulary(symbols)
        return cls(known.symbols, known.ensembl, known.mouse_symbols, known.mouse_ensembl, known.aliases)

    def match_in(self, genes: Genes, orthologs: bool = False, **how: Any) -> PublishedMatch:
        """Match by exact symbol, Ensembl id or ortholog."""
        return replace(super().match_in(genes, orthologs, **how), summed=True)


def first_columns(match: Match) -> Match:
    """Only the first column of each gene, as a look-up by name finds it."""
    first = np.zeros(len(match.ids), dtype=bool)
    first[np.unique(match.ids, return_index=True)[1]] = True
    others = plural(int((~first).sum()), "further column of a gene is", "further columns of genes are")
    return match.only(first, f"{others} not read: of several the reference takes the first.")


def before_and_now(cells: Cells, match: Match, n_genes: int) -> tuple[csr_matrix, csr_matrix]:
    """Counts in the model's order of genes: of the unperturbed cells, and of the cells."""
    now = aligned_counts(cells, match, n_genes)
    return (now if cells.baseline is None else aligned_counts(cells.baseline, match, n_genes)), now


def library_sizes(cells: Cells, before: csr_matrix, *, like_reference: bool) -> NDArray[np.float64]:
    """Library size of the unperturbed cells (:data:`LIBRARY_RULE`)."""
    if TOTAL_COLUMN in cells.fields and not like_reference:
        return cells.total
    return np.asarray(before.sum(axis=1, dtype=np.float64)).ravel()


# --- files ------------------------------------------------------------------------------------


def names_tensors(path: Path, *names: str) -> bool:
    """Whether the beginning of a file names all these tensors; nothing of it is read as a pickle."""
    if is_converted(stored(path)):
        known = tensor_names(path)
        return all(any(name in key for key in known) for name in names)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return all(name.encode() in head for name in names)


def known_entries(given: Mapping[str, Any] | None, known: Iterable[str], what: str, name: str) -> dict[str, Any]:
    """A user's ``config`` or ``files``.

    Raises
    ------
    ModelError
        If an entry is unknown to the family.
    """
    from scfm_lab.errors import did_you_mean

    entries, known = dict(given or {}), list(known)
    strange = [key for key in entries if key not in known]
    if strange:
        raise ModelError(
            f"{name} has no {what} entry {strange[0]!r}; it knows {', '.join(known)}." + did_you_mean(strange[0], known)
        )
    return entries


def read_gene_list(source: Any, name: str) -> NDArray[Any]:
    """Gene symbols in a model's order.

    Parameters
    ----------
    source
        A sequence of symbols, or the path of an ``.h5ad`` (its ``var_names``), of a text file with one symbol a
        line, or of a table with a column ``gene_name`` (and, where it is not in order, ``index``).
    name
        The model's, for the message.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or its index does not count from 0.
    """
    from pathlib import Path

    if not isinstance(source, (str, Path)):
        if not isinstance(source, Iterable):
            raise ModelError(f"The gene list of {name} is a path or a list of symbols, not {source!r}.")
        return np.array([str(gene) for gene in source], dtype=object)
    path = Path(source).expanduser()
    if not path.is_file():
        raise ModelError(f"The gene list {path} of {name} is missing; give the files as published.")
    try:
        genes = _names_of_h5ad(path) if path.suffix == ".h5ad" else _names_of_text(path)
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, MemoryError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ModelError(f"The gene list {path} of {name} is damaged ({first}). Get the file again.") from error
    if len(genes) == 0 or not all(genes):
        raise ModelError(f"The gene list {path} of {name} is empty or has a line without a name. Get the file again.")
    return genes


def _names_of_h5ad(path: Path) -> NDArray[Any]:
    import h5py  # type: ignore[import-untyped]
    from anndata.io import read_elem

    with h5py.File(path, "r") as file:
        for fault in faults(file):
            raise ValueError(f"it {fault}")
        var = file["var"]
        columns = list(var.values()) if isinstance(var, h5py.Group) else [var]
        longest = max((column.size for column in columns if isinstance(column, h5py.Dataset)), default=0)
        if longest > _MOST_GENES:
            raise ValueError(f"its var has {longest:,} entries")
        if "_index" in var.attrs:
            return read_elem(var).index.astype(str).to_numpy(dtype=object)
        if not isinstance(var, h5py.Dataset) or var.dtype.names is None:
            raise ValueError("its var names no genes")
    return _names_of_old_h5ad(path)


def _names_of_old_h5ad(path: Path) -> NDArray[Any]:
    """As anndata < 0.7 wrote them: ``var`` is one data set of records."""
    import warnings

    from anndata.io import read_h5ad

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the layout is old
        opened = read_h5ad(path, backed="r")
    try:
        return opened.var_names.astype(str).to_numpy(dtype=object)
    finally:
        opened.file.close()


def _names_of_text(path: Path) -> NDArray[Any]:
    import pandas as pd

    text = path.read_text(encoding="utf-8")
    first = text.split("\n", 1)[0]
    separator = "\t" if "\t" in first else ","
    if "gene_name" not in first.strip().split(separator):
        return np.array([line.strip() for line in text.splitlines() if line.strip()], dtype=object)
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    if "index" in table:
        order = table["index"].astype(int).to_numpy()
        if not np.array_equal(np.sort(order), np.arange(len(order))):
            raise ValueError("its column 'index' does not count from 0 without gaps")
        table = table.iloc[np.argsort(order)]
    return table["gene_name"].to_numpy(dtype=object)


# --- batches that are not the engine's --------------------------------------------------------


def groups_of(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    """Neighbouring rows, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def run_groups(
    model: Model,
    tokens: Tokens,
    size: int,
    step: Callable[[Batch, NDArray[np.int64], NDArray[np.int64]], None],
    *,
    precision: Precision | None = None,
    progress: Callable[..., None] | None = None,
    cancel: Any = None,
) -> None:
    """Run the cells in their own order, `size` at a time, as batches that depend on each other's cells ask for.

    Parameters
    ----------
    step
        Called with the batch, the rows of its cells and the flat places of its tokens.
    precision
        None: the model's own.

    Raises
    ------
    Cancelled
        If `cancel` was set; at most one more batch is run.
    DataError
        If a batch would hold no cell.
    """
    import torch

    from scfm_lab.inference.engine import _turn, make_batch
    from scfm_lab.models.products import running

    model.check_tokens(tokens)
    if size < 1:
        raise DataError(f"batch_size is {size}; a batch holds at least one cell.")
    visible = np.flatnonzero(tokens.genes_seen > 0)
    done = len(tokens) - len(visible)
    if progress is not None:
        progress(done, len(tokens))
    for rows in groups_of(visible, size):
        if cancel is not None and cancel.is_set():
            raise Cancelled("Stopped; nothing was written.")
        batch, places = make_batch(tokens, rows, torch.device(model.device))
        with _turn, torch.inference_mode(), running(precision or model.compute):
            step(batch, rows, places)
        done += len(rows)
        if progress is not None:
            progress(done, len(tokens))
