"""A model's own package beside ours, in one run: the same checkpoint of published size, the same real cells.

The reference runs from its own unmodified files in an environment of its own, in float32, one side after the other;
ours in float32, or in what --precision says. Each side first embeds one cell, so that whatever it compiles is on disk (under "auto" all of them, so that the choice is
too), and is then measured in a fresh process. The last line says how many times faster ours is, its share of the peak memory, and the worst cosine between
the two sides' vectors, also after the mean cell is taken off both. (scGPT's package draws, so that its vectors are near
ours and not the same; TranscriptFormer's does not.)

scGPT: torchtext, whose last release does not go with today's PyTorch, is replaced by a vocabulary of a dozen lines.

\b
python -m venv peer && peer/bin/pip install --no-deps scgpt
peer/bin/pip install torch numpy pandas scipy anndata scanpy scikit-learn seaborn networkx numba tqdm datasets click
SCFM_DATA=... python benchmarks/references.py --peer peer/bin/python

TranscriptFormer: its own command, `transcriptformer inference --device cpu --precision 32`, in a newer PyTorch than the
one it pins. Its attention is compiled, as by default, so that a C++ compiler is needed. Every batch is filled up to
--batch cells; with one, the default here, it needs the least memory. "after_loading" is its network alone, without
the first batch, where compiled code is looked up; on our side, weights are read, tokens made and all cells counted.

\b
python -m venv peer && peer/bin/pip install --no-deps transcriptformer==0.6.1 \\
    pytorch-lightning==2.5.1 lightning-utilities torchmetrics
peer/bin/pip install torch numpy pandas scipy anndata scanpy h5py omegaconf requests click
SCFM_DATA=... python benchmarks/references.py --model transcriptformer --cells 4 --peer peer/bin/python
"""  # noqa: D301 - for click

from __future__ import annotations

import contextlib
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

    def passed(self) -> tuple[float, float]:
        """What has passed since it was made."""
        return time.perf_counter() - self.start[0], sum(os.times()[:4]) - self.start[1]

    def __call__(self, cells: int) -> dict[str, float]:
        """The same, for so many cells."""
        return rates(*self.passed(), cells)


def rates(wall: float, work: float, cells: int) -> dict[str, float]:
    """Seconds as they are printed."""
    return {"cells_per_s": round(cells / wall, 3), "core_s_per_1000_cells": round(1000 * work / cells, 3)}


def scgpt(folder: Path, n: int, batch: int) -> tuple[dict[str, Any], Any]:
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
        few, folder / "checkpoint", gene_col="gene_symbol", device="cpu", use_fast_transformer=False, batch_size=batch
    )
    return {"tokenising": tokens, "embedding": clock(n)}, made.obsm["X_scGPT"]


def transcriptformer(folder: Path, n: int, batch: int) -> tuple[dict[str, Any], Any]:
    """Its own command, from a file to a file; its batches are timed one by one."""
    import anndata as ad
    from transcriptformer import cli  # type: ignore[import-not-found]
    from transcriptformer.model.model import Transcriptformer  # type: ignore[import-not-found]

    step, seconds = Transcriptformer.predict_step, []

    def timed(self: Any, cells: Any, at: int) -> Any:
        clock = Clock()
        made = step(self, cells, at)
        seconds.append(clock.passed())
        return made

    Transcriptformer.predict_step = timed
    os.chdir(folder)  # it keeps a log where it is run
    ad.read_h5ad("cells.h5ad")[:n].write_h5ad("few.h5ad")
    sys.argv = ["transcriptformer", "inference", "--device", "cpu", "--precision", "32", "--batch-size", str(batch)]
    sys.argv += ["--checkpoint-path", "checkpoint", "--data-file", "few.h5ad", "--output-path", "made"]
    clock = Clock()
    cli.main()
    row = {"embedding": clock(n)}
    if n > batch:
        row["after_loading"] = rates(*(sum(part) for part in zip(*seconds[1:], strict=True)), n - batch)
    return row, ad.read_h5ad("made/embeddings.h5ad").obsm["embeddings"]


def ours(folder: Path, n: int, name: str, precision: str) -> tuple[dict[str, Any], Any]:
    """The same with this package."""
    import anndata as ad
    import torch  # noqa: F401 - imported before the clock starts, as the reference's side does

    import scfm_lab as sl

    cells = ad.read_h5ad(folder / "cells.h5ad")
    few = cells[:n].copy()
    clock = Clock()
    model = sl.load_model(folder / "checkpoint", device="cpu", precision=precision)
    after = Clock()
    result = sl.embed(few, model, cache=False, progress=False)
    row = {"embedding": clock(n), "after_loading": after(n), "precision": result.provenance["precision"]}
    model.tokenize(few)
    clock = Clock()
    model.tokenize(cells)
    return {"tokenising": clock(cells.n_obs), **row}, few.obsm[f"X_{name}"]


REFERENCES = {"scgpt": scgpt, "transcriptformer": transcriptformer}


def prepare(name: str, place: Path) -> None:
    """Write the checkpoint and the cells that both sides read."""
    from published_sizes import write

    import scfm_lab as sl

    adata = sl.datasets.load("pbmc3k_raw")
    write(name, place / "checkpoint", adata)
    if name == "scgpt":
        settings = place / "checkpoint" / "args.json"
        # Entries of the published file that only the reference asks for.
        settings.write_text(json.dumps({"dropout": 0.2, "n_layers_cls": 3, **json.loads(settings.read_text())}))
    adata.obs = adata.obs[[]].assign(assay="10x 3' v1")
    adata.write_h5ad(place / "cells.h5ad")


def run(side: str, python: str, name: str, n: int, batch: int, place: Path, precision: str) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [python, str(Path(__file__).resolve()), "--side", side, "--folder", str(place), "--model", name]
    command += ["--cells", str(n), "--batch", str(batch), "--precision", precision]
    environment = {k: v for k, v in os.environ.items() if side != "reference" or k != "PYTHONPATH"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(place / "compiled")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"The {side} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def worst_cosine(one: Any, other: Any) -> float:
    """Of two arrays, cells × width."""
    import numpy as np

    one, other = one.astype(float), other.astype(float)
    product = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return round(float(product.min()), 7)


@click.command(help=__doc__)
@click.option("--model", "name", default="scgpt", show_default=True, type=click.Choice(list(REFERENCES)))
@click.option("--peer", type=click.Path(exists=True), help="Python of the environment that holds the reference.")
@click.option("--cells", "n", default=64, show_default=True, help="Cells to embed; all 2,700 are tokenised.")
@click.option(
    "--batch", default=0, help="The reference's batch; 0: 64 cells of scGPT, its default, 1 of TranscriptFormer."
)
@click.option(
    "--at", type=click.Path(path_type=Path), help="Keep the checkpoint and compiled code here and use them again."
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=["float32"],
    show_default=True,
    help="Of our side, each in turn.",
)
@click.option("--side", type=click.Choice(["prepare", *SIDES]), hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(
    name: str,
    peer: str | None,
    n: int,
    batch: int,
    at: Path | None,
    precisions: tuple[str, ...],
    side: str | None,
    folder: Path | None,
) -> None:
    """Print a row for each side, and how they compare."""
    import numpy as np

    batch = batch or {"scgpt": 64, "transcriptformer": 1}[name]
    if side == "prepare" and folder:
        prepare(name, folder)
        click.echo("{}")
        return
    if side and folder:
        made = ours(folder, n, name, precisions[0]) if side == "ours" else REFERENCES[name](folder, n, batch)
        row, vectors = made
        np.save(folder / f"{side}-{precisions[0]}.npy", vectors)
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        click.echo(json.dumps({"side": side, "cells": n, **row, "peak_mib": round(peak / 1024)}))
        return
    if not peer:
        raise click.UsageError("--peer is needed: the Python of an environment that holds the reference (see --help).")
    with contextlib.ExitStack() as stack:
        place = at.resolve() if at else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        # Not in this process: Linux counts a parent's peak as its children's.
        if not (place / "cells.h5ad").exists():
            run("prepare", sys.executable, name, n, batch, place, "float32")
        theirs, vectors = beside(("reference", peer, "float32"), name, n, batch, place)
        click.echo(json.dumps(theirs))
        for precision in precisions:
            mine, own = beside(("ours", sys.executable, precision), name, n, batch, place)
            click.echo(json.dumps(mine))
            told = {
                key: round(mine[key]["cells_per_s"] / theirs[key]["cells_per_s"], 2)
                for key in theirs.keys() & {"tokenising", "embedding", "after_loading"}
            }
            told["peak"] = round(mine["peak_mib"] / theirs["peak_mib"], 2)
            centred = worst_cosine(*(v - v.mean(0) for v in (vectors, own))) if n > 1 else None
            cosines = {"worst_cosine": worst_cosine(vectors, own), "worst_cosine_centred": centred}
            click.echo(json.dumps({"asked": precision, "times": told, **cosines}))


def beside(side: tuple[str, str, str], name: str, n: int, batch: int, place: Path) -> tuple[dict[str, Any], Any]:
    """A side (its name, its Python, its precision), after a run that is not counted: its row and its vectors."""
    import numpy as np

    who, python, precision = side
    made = place / f"{who}-{precision}.npy"
    if not made.exists():
        # "auto" tries what is fast on as many cells, and keeps what it finds.
        run(who, python, name, n if precision == "auto" else 1, batch, place, precision)
    return run(who, python, name, n, batch, place, precision), np.load(made)


if __name__ == "__main__":
    main()
