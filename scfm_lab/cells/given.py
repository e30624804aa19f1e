"""What a task was given, looked at before anything is read: cells where cells belong, a model where a model belongs."""

from __future__ import annotations

import os
from typing import Any

from scfm_lab.errors import DataError

#: What of an AnnData every task reads; backed, lazy and stored cells have it too.
_OF_CELLS = ("obs", "var", "obs_names", "n_obs", "uns")


def looks_like_cells(value: Any) -> bool:
    """Whether it has what tasks read of an AnnData; its values are not looked at."""
    return all(hasattr(value, name) for name in _OF_CELLS)


def check_given(adata: Any, model: Any = None, *, function: str, call: str = "", paths: bool = False) -> None:
    """Check that cells stand where cells belong, and no cells where the model belongs.

    Parameters
    ----------
    adata, model
        As they were given; what is a model :func:`scfm_lab.models.load.as_model` decides.
    function
        What the user called, such as ``"sl.embed"``.
    call
        How it is called; default ``function(adata, model)``.
    paths
        Whether the function opens files itself.

    Raises
    ------
    DataError
        One sentence that says what came instead, without the content of an AnnData.
    """
    call = call or f"{function}(adata, model)"
    if looks_like_cells(adata):
        if looks_like_cells(model):
            raise DataError(f"{function} was given an AnnData where the model belongs; write {call}.")
        return
    if looks_like_cells(model):
        raise DataError(f"The arguments of {function} are swapped: the cells come first, {call}.")
    if isinstance(adata, (str, os.PathLike)):
        if paths:
            return
        raise DataError(
            f"{function} needs the cells themselves, and was given the text {os.fspath(adata)!r}; read a file with "
            "anndata.read_h5ad(path) first, or use the command line (scfm-lab --help)."
        )
    package = type(adata).__module__.partition(".")[0]
    kind = type(adata).__name__ if package == "builtins" else f"{package}.{type(adata).__name__}"
    hint = " From a table of cells × genes: anndata.AnnData(table)." if kind == "pandas.DataFrame" else ""
    raise DataError(f"{function} needs an AnnData with raw counts; it was given something else ({kind}).{hint}")
