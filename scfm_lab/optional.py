"""Packages that only some questions need."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from scfm_lab.errors import DataError


def need(package: str, *, what: str, extra: str = "science") -> Any:
    """Import a package, or say how to get it.

    Parameters
    ----------
    package
        Module to import.
    what
        What it is needed for, the subject of a sentence.
    extra
        The extra of scfm-lab that brings it.

    Raises
    ------
    DataError
        If it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # What a package says of its own imports is nothing that a user can act on.
            warnings.simplefilter("ignore")
            return importlib.import_module(package)
    except ImportError as error:
        raise DataError(
            f"{what} needs the package {package.partition('.')[0]}, which is not installed; pip install 'scfm-lab[{extra}]'."
        ) from error
