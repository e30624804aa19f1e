"""scGPT's own package beside ours, in one run: the same checkpoint of published size, the same real cells, one after the other.

The reference runs unmodified in an environment of its own, in which torchtext (whose last release does not go with today's
PyTorch) is replaced by a vocabulary of a dozen lines:

python -m venv peer && peer/bin/pip install --no-deps scgpt
peer/bin/pip install torch numpy pandas scipy anndata scanpy scikit-learn seaborn networkx numba tqdm datasets
SCFM_DATA=... python benchmarks/references.py --peer peer/bin/python
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

import click

SIDES = ("reference", "ours")


def stand_in() -> None:
    """What scGPT uses of torchtext: a list of tokens, and the place of each."""

    class Vocab:
        def __init__(self, tokens: Any = ()) -> None:
            self.tokens = list(getattr(tokens, "tokens", tokens))
            self.places = {token: i for i, token in enumerate(self.tokens)}
            self.vocab, self.default = self, None

        def insert_token(self, token: str, index: int) -> None:
            assert index == len(self.tokens)
            self.append_token(token)

        def append_token(self, token: str) -> None:
            self.places[token] = len(self.tokens)
            self.tokens.append(token)

        def set_default_index(self, index: int) -> None:
            self.default = index

        def __contains__(self, token: str) -> bool:
            return token in self.places

        def __getitem__(self, token: str) -> int:
            return self.places.get(token, self.default)

        def __call__(self, tokens: list[str]) -> list[int]:
            return [self[token] for token in tokens]

        def __len__(self) -> int:
            return len(self.tokens)

    module, inner = types.ModuleType("torchtext"), types.ModuleType("torchtext.vocab")
    inner.Vocab, inner.vocab = Vocab, lambda counted, **_: Vocab(counted)  # type: ignore[attr-defined]
    module.vocab = inner  # type: ignore[attr-defined]
    sys.modules.update({"torchtext": module, "torchtext.vocab": inner})


class Clock:
    """Wall and processor seconds, those of finished child processes among them."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), sum(os.times()[:4])

    def __call__(self, cells: int) -> dict[str, float]:
        """What has passed since it was made, for so many cells."""
        wall, work = time.perf_counter() - self.start[0], sum(os.times()[:4]) - self.start[1]
        return {"cells_per_s": round(cells / wall, 2), "core_s_per_1000_cells": round(1000 * work / cells, 3)}


def reference(folder: Path, n: int) -> dict[str, Any]:
    """Its tokens alone (its own loop with a network that does nothing), then its embedding, loading included."""
    stand_in()
    import anndata as ad
    import numpy as np
    import torch
    from scgpt.tasks import cell_emb  # type: ignore[import-not-found]
    from scgpt.tokenizer import GeneVocab  # type: ignore[import-not-found]

    cells = ad.read_h5ad(folder / "cells.h5ad")
    vocab = GeneVocab.from_file(folder / "checkpoint" / "vocab.json")
    settings = json.loads((folder / "checkpoint" / "args.json").read_text())

    class Nothing(torch.nn.Linear):
        def _encode(self, ids: Any, *_: Any, **__: Any) -> Any:
            return torch.ones(len(ids), 1, settings["embsize"])

    clock = Clock()
    names = cells.var["gene_symbol"].astype(str)
    places = np.array([vocab[name] if name in vocab else -1 for name in names])  # noqa: SIM401
    known = cells[:, places >= 0]
    cell_emb.get_batch_cell_embeddings(
        known, model=Nothing(1, 1), vocab=vocab, model_configs=settings, gene_ids=places[places >= 0]
    )
    tokens = clock(cells.n_obs)
    few = cells[:n].copy()
    clock = Clock()
    made = cell_emb.embed_data(
        few, folder / "checkpoint", gene_col="gene_symbol", device="cpu", use_fast_transformer=False
    )
    return {"tokenising": tokens, "embedding": clock(n), "finite": bool(np.isfinite(made.obsm["X_scGPT"]).all())}


def ours(folder: Path, n: int) -> dict[str, Any]:
    """The same with this package, float32."""
    import anndata as ad
    import numpy as np

    import scfm_lab as sl

    cells = ad.read_h5ad(folder / "cells.h5ad")
    few = cells[:n].copy()
    clock = Clock()
    model = sl.load_model(folder / "checkpoint", device="cpu", precision="float32")
    sl.embed(few, model, cache=False, progress=False)
    embedding = clock(n)
    model.tokenize(few)
    clock = Clock()
    model.tokenize(cells)
    return {
        "tokenising": clock(cells.n_obs),
        "embedding": embedding,
        "finite": bool(np.isfinite(few.obsm["X_scgpt"]).all()),
    }


@click.command(help=__doc__)
@click.option("--peer", type=click.Path(exists=True), help="Python of the environment that holds scGPT.")
@click.option("--cells", "n", default=64, show_default=True, help="Cells to embed; all 2,700 are tokenised.")
@click.option("--side", type=click.Choice(SIDES), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(peer: str | None, n: int, side: str | None, folder: Path | None) -> None:
    """Print a row for each side."""
    if side and folder:
        row = {"side": side, "cells": n, **{"reference": reference, "ours": ours}[side](folder, n)}
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        click.echo(json.dumps({**row, "peak_mib": round(peak / 1024)}))
        return
    if not peer:
        raise click.UsageError("--peer is needed: the Python of an environment that holds scGPT (see --help).")
    from published_sizes import write

    import scfm_lab as sl

    adata = sl.datasets.load("pbmc3k_raw")
    with tempfile.TemporaryDirectory() as place:
        write("scgpt", Path(place) / "checkpoint", adata)
        settings = Path(place) / "checkpoint" / "args.json"
        # Entries of the published file that only the reference asks for.
        settings.write_text(json.dumps({"dropout": 0.2, "n_layers_cls": 3, **json.loads(settings.read_text())}))
        adata.write_h5ad(Path(place) / "cells.h5ad")
        for name, python in zip(SIDES, (peer, sys.executable), strict=True):
            command = [python, __file__, "--side", name, "--folder", place, "--cells", str(n)]
            environment = {k: v for k, v in os.environ.items() if name == "ours" or k != "PYTHONPATH"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise click.ClickException(f"The {name} failed:\n{done.stderr[-2000:]}")
            click.echo(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
