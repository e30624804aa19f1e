"""Write the digests of the cells that the shipped models have learnt from.

    python -m scfm_lab.training.shipped_cells

To be run after a shipped model was trained on other cells or has another vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHIPPED = ("starter", "pca", "sctop")


def digests() -> dict[str, NDArray[np.uint64]]:
    """Sorted digests by name, as :mod:`scfm_lab.models.training_cells` reads them.

    Raises
    ------
    DataError
        The cells at hand are not those that a configuration names.
    """
    from scfm_lab.errors import DataError
    from scfm_lab.models.load import load_model
    from scfm_lab.models.training_cells import known_name
    from scfm_lab.training import corpus
    from scfm_lab.training.finetune_record import known_keys, vocabulary_digest

    sets = {name: corpus.read(name, training_cells=True) for name in corpus.TRAINING_SETS}
    names = {corpus.cell_set_digest(cells.keys): name for name, cells in sets.items()}
    found: dict[str, NDArray[np.uint64]] = {}
    for shipped in SHIPPED:
        model = load_model(shipped)
        for digest in model.learnt_from:
            if digest not in names:
                raise DataError(
                    f"{shipped} names a set of cells, {digest}, that is none of {', '.join(corpus.TRAINING_SETS)}."
                )
            cells = sets[names[digest]]
            found[digest] = np.sort(cells.keys)
            found[known_name(digest, vocabulary_digest(model))] = np.sort(known_keys(model, cells))
    return found


@click.command(help=(__doc__ or "").split("\n", maxsplit=1)[0])
def main() -> None:
    """Entry point."""
    from safetensors.numpy import save_file

    from scfm_lab.models.training_cells import FILE

    save_file(digests(), FILE)
    click.echo(f"{FILE}: {FILE.stat().st_size:,} bytes.")


if __name__ == "__main__":
    main()
