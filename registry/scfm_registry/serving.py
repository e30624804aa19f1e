"""Versions as MLflow serves them: ``mlflow.pyfunc.load_model("models:/starter/1")`` and ``mlflow models serve``.

Beside a version's files lies an ``MLmodel`` that names this module as the loader. Nothing in the folder is code: what runs is this
installed package and the adapter of the version's family, found among the installed plugins. The ``MLmodel`` is no part of
the identity, but its every byte follows from it, and is checked with the other files.

Two kinds of input, both a table:

- a column ``adata_uri`` and no other: in each row the path of an ``.h5ad`` file or a Zarr folder;
- counts: one row per cell, one column per gene (symbols or Ensembl identifiers, as the model knows them).

The answer is a table with one row per cell: ``cell``, the name of the cell, then the numbers of its vector, in columns
``0`` to ``width - 1``. A cell that the model cannot see (no known gene) has NaN.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError, ModelError, StorageError
from scfm_registry import manifest

if TYPE_CHECKING:
    import pandas as pd

    from scfm_lab.models.contract import Model

#: The column that holds paths of cells.
COLUMN = "adata_uri"
#: Below which folder the files of a served model's requests must lie; by default the directory that it was started in.
ROOT = "SCFM_SERVING_DATA"
#: A request with more cells than this is a slip: give a file's path instead.
MOST_CELLS = 100_000


class Served:
    """A version that answers MLflow's ``predict``.

    Parameters
    ----------
    model
        The opened model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Embed cells.

        Parameters
        ----------
        data
            A table as the module says; also what MLflow makes of JSON.
        params
            None are declared. MLflow drops what is not declared, with a warning, before it comes here.

        Returns
        -------
        pandas.DataFrame
            ``cell`` and one float32 column per dimension.

        Raises
        ------
        DataError
            The table is neither kind, or a file may not be read.
        """
        import pandas as pd

        if params:
            message = f"This model takes no params; leave out {', '.join(map(repr, params))}."
            raise DataError(message)
        if not isinstance(data, pd.DataFrame):
            message = (
                f"Give a pandas.DataFrame: a column '{COLUMN}' with paths, or one column of counts per gene; this is "
                f"{type(data).__name__}."
            )
            raise DataError(message)
        if data.empty:
            raise DataError("The table holds no rows, and so no cells.")
        if COLUMN in data.columns:
            more = [str(name) for name in data.columns if name != COLUMN]
            if more:
                message = f"A table with '{COLUMN}' has no other columns; leave out {', '.join(more[:5])}."
                raise DataError(message)
            return pd.concat([self._file(uri) for uri in data[COLUMN]], ignore_index=True)
        return self._counts(data)

    def _file(self, uri: Any) -> pd.DataFrame:
        import scfm_lab as sl
        from scfm_lab.cells.stored import open_stored

        path = allowed(uri)
        return _table(sl.embed(path, self.model, progress=False), open_stored(path).obs_names)

    def _counts(self, data: pd.DataFrame) -> pd.DataFrame:
        import numpy as np
        from anndata import AnnData
        from scipy.sparse import csr_matrix

        import scfm_lab as sl

        if len(data) > MOST_CELLS:
            message = f"The table has {len(data):,} cells; for more than {MOST_CELLS:,} give files, in '{COLUMN}'."
            raise DataError(message)
        wrong = [str(name) for name, kind in data.dtypes.items() if kind.kind not in "iufb"]
        if wrong:
            message = f"Counts are numbers; these columns hold something else: {', '.join(wrong[:5])}."
            raise DataError(message)
        adata = AnnData(csr_matrix(data.to_numpy(dtype=np.float32)))
        adata.var_names = [str(name) for name in data.columns]
        adata.obs_names = [str(name) for name in data.index]
        return _table(sl.embed(adata, self.model, progress=False), adata.obs_names)


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> Served:
    """Open a version for MLflow; this name and its arguments are MLflow's.

    Parameters
    ----------
    path
        Folder of the version's files.
    model_config
        ``device`` and ``precision`` as for :func:`scfm_lab.load_model`, and nothing else.

    Raises
    ------
    ModelError
        A file is not what was registered, the version was retracted in the registry that the environment names, no installed
        plugin opens its family, or a setting is unknown.
    """
    from scfm_registry import files, first_opening, source
    from scfm_registry.importing import config_of

    settings = dict(model_config or {})
    unknown = sorted(set(settings) - {"device", "precision"})
    if unknown:
        message = f"model_config takes 'device' and 'precision'; leave out {', '.join(map(repr, unknown))}."
        raise ModelError(message)
    folder = Path(path)
    try:
        content = (folder / manifest.FILENAME).read_bytes()
    except OSError as error:
        message = f"{folder} is no version of a registry: it has no {manifest.FILENAME}."
        raise ModelError(message) from error
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    label = f"the model in {folder}"
    listed = manifest.parse(content, str(folder / manifest.FILENAME))
    # The weights are hashed as they are read.
    files.require_ok(manifest.compare(folder, listed, deferred=".safetensors"), folder, label)
    registered = _check_retraction(digest, label)
    first_opening.look(folder, listed, digest, source.environment)
    found = source.ResolvedSource(
        path=folder,
        name="served",
        version=1,
        alias=None,
        digest=digest,
        adapter=listed.family,
        config=config_of(folder),
        hashes={path: entry.sha256 for path, entry in listed.files.items()},
    )
    model = source.open_model(found, settings.get("device", "auto"), settings.get("precision", "auto"))
    if not registered:
        _check_retraction(digest, label, model)
    return Served(model)


def _check_retraction(digest: str, label: str, model: Model | None = None) -> bool:
    """Refuse what was retracted, as far as there is a registry to ask: the files themselves may lie anywhere.

    Before the model is opened, files that are registered are refused where the registry would not open them. Others are looked at
    once their weights are known.

    Returns
    -------
    bool
        Whether these files are registered, so that nothing is left to ask.

    Raises
    ------
    ModelError
        The registry that the environment names has retracted it, a copy of its weights, or something that it was made from.
    """
    from scfm_registry import source
    from scfm_registry.store.place import resolve

    try:
        place = resolve()
        # No registry is made to be asked.
        if place.database is not None and not (place.read_only or place.database.exists()):
            return False
        registry = source.environment()
        if model is None:
            found = registry.with_digest(digest)
            for item in found:
                registry.check_usable(item)
            return bool(found)
        own = {"scfm.digest": digest, "scfm.stored_weights": model.digest}
        before = [tuning.record["parent"]["digest"] for tuning in (model.finetuning.chain if model.finetuning else ())]
        for parent in before or [""]:
            registry.check_files_usable({**own, "scfm.parent_digest": str(parent)}, label)
    except StorageError as error:
        warnings.warn(f"Whether the model was retracted could not be asked: {error}", RuntimeWarning, stacklevel=3)
    return False


def allowed(uri: Any) -> Path:
    """Give the file that a request names, if it may be read.

    Whoever can reach a server can name any file; so a served model reads below one folder only (``SCFM_SERVING_DATA``, by
    default the directory it was started in). In a program of your own nothing is forbidden to you.

    Raises
    ------
    DataError
        It is an address of the network, lies elsewhere, or is not there.
    """
    if not isinstance(uri, str) or not uri:
        message = f"'{COLUMN}' holds the path of a file in each row, and not {uri!r}."
        raise DataError(message)
    text = uri.removeprefix("file://")
    if "://" in text or "\0" in text:
        message = f"'{COLUMN}' takes paths of files of this machine, and not addresses such as {uri[:80]!r}."
        raise DataError(message)
    root = os.environ.get(ROOT)
    if root is None and "mlflow.pyfunc.scoring_server.app" in sys.modules:
        root = os.getcwd()
    path = Path(text).expanduser() if root is None else Path(root).resolve() / text
    if root is not None and not path.resolve().is_relative_to(Path(root).resolve()):
        # Whether there is such a file is nobody's business either.
        message = f"{uri[:200]!r} does not lie in the folder whose files may be asked for ({ROOT})."
        raise DataError(message)
    if not path.exists():
        message = f"There is no file {uri[:200]!r}."
        raise DataError(message)
    return path


def _table(result: Any, cells: Any) -> pd.DataFrame:
    import numpy as np
    import pandas as pd

    vectors = np.asarray(result.vectors)
    table = pd.DataFrame(vectors, columns=[str(number) for number in range(vectors.shape[1])])
    table.insert(0, "cell", [str(name) for name in cells])
    return table
