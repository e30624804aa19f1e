"""Pretraining of ``starter``, from the datasets to the shipped folder, in one command.

    python -m scfm_lab.training.starter --out DIR

Every step draws its cells and what is hidden in them from (seed, step), so that a run which
was stopped goes on from its last checkpoint exactly as if it had not been.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.cells.genes import Vocabulary
from scfm_lab.training import corpus
from scfm_lab.training.objective import Masking, losses, make_batch, mean_rates, moments

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from numpy.typing import NDArray

    from scfm_lab.models.starter_net import StarterNet
    from scfm_lab.training.corpus import CellSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights besides the data."""

    width: int = 128
    layers: int = 2
    heads: int = 4
    ffn: int = 256
    value_hidden: int = 32
    decoder_width: int = 64
    epochs: float = 24.0
    batch: int = 32
    rate: float = 3e-3
    warmup: float = 0.05
    decay: float = 0.01
    token_weight: float = 0.25
    evenness: float = 0.5
    """Genes weigh in the loss as their mean rate to minus this power."""
    seed: int = 0
    masking: Masking = field(default_factory=Masking)

    def network(self, n_genes: int) -> dict[str, Any]:
        """Configuration of the network."""
        keys = ("width", "layers", "heads", "ffn", "value_hidden", "decoder_width")
        return {"n_genes": n_genes, **{k: getattr(self, k) for k in keys}}


def schedule(sets: list[CellSet], recipe: Recipe) -> list[tuple[int, NDArray[np.int64]]]:
    """(set, rows) of every step: each epoch sees every cell once, in batches of one set, shuffled."""
    steps: list[tuple[int, NDArray[np.int64]]] = []
    for epoch in range(int(np.ceil(recipe.epochs))):
        rng = np.random.default_rng([recipe.seed, 1, epoch])
        batches: list[tuple[int, NDArray[np.int64]]] = []
        for i, cellset in enumerate(sets):
            order = rng.permutation(len(cellset))
            batches += [(i, order[s : s + recipe.batch]) for s in range(0, len(order), recipe.batch)]
        steps += [batches[j] for j in rng.permutation(len(batches))]
    return steps[: int(len(steps) * recipe.epochs / np.ceil(recipe.epochs))]


def start(sets: list[CellSet], recipe: Recipe, rates: NDArray[np.float64]) -> StarterNet:
    """A network at step 0.

    Gene embeddings and decoder start from the singular vectors of the training cells (log1p of
    counts per 10,000, centred per gene), and the decoder's bias from the genes' mean rates: a
    few thousand cells are too few to find from noise what linear algebra tells at once. The way
    through ``<cls>`` starts as the identity, so that step 0 is about a linear reconstruction.
    """
    import torch
    from sklearn.utils.extmath import randomized_svd

    from scfm_lab.models.starter_net import StarterNet, initialise

    net = StarterNet(recipe.network(len(rates)))
    initialise(net, recipe.seed)
    mean, variance = moments(sets)
    rank = recipe.decoder_width
    _, strength, genes = randomized_svd(_centred(sets, mean), n_components=rank, random_state=recipe.seed)
    table = (genes * np.sqrt(strength)[:, None]).T
    table = np.clip(table / np.sqrt((table**2).mean()), -8, 8)
    with torch.no_grad():
        known = torch.from_numpy(table.astype(np.float32))
        net.embedding.weight[1:, :rank] = known * recipe.width**-0.5
        net.decoder_genes.weight.copy_(known * rank**-0.5)
        torch.nn.init.eye_(net.pool.weight)
        torch.nn.init.eye_(net.decoder_query.weight).mul_(0.3)
        net.mean.copy_(torch.from_numpy(mean.astype(np.float32)))
        net.variance.copy_(torch.from_numpy(variance.astype(np.float32)))
        net.bias.copy_(torch.from_numpy(np.log(rates).astype(np.float32)))
    return net


def _centred(sets: list[CellSet], mean: NDArray[np.float64]) -> NDArray[np.float32]:
    """log1p(counts per 10,000) less the mean, 0 where a set does not measure the gene."""
    rows = []
    for cellset in sets:
        logged = cellset.counts.multiply(1e4 / cellset.total[:, None]).tocsr().log1p().toarray()
        rows.append(((logged - mean) * cellset.measured).astype(np.float32))
    return np.vstack(rows)


def learning_rate(step: int, steps: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine to a hundredth."""
    warm = max(1, int(steps * recipe.warmup))
    if step < warm:
        return recipe.rate * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return recipe.rate * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done)))


def parameter_groups(net: StarterNet, recipe: Recipe) -> list[dict[str, Any]]:
    """Weight decay for matrices of layers; none for norms, biases and gene tables."""
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in net.named_parameters():
        matrix = parameter.ndim == 2 and not name.startswith(("embedding", "decoder_genes"))
        (decayed if matrix else free).append(parameter)
    return [{"params": decayed, "weight_decay": recipe.decay}, {"params": free, "weight_decay": 0.0}]


def train(
    sets: list[CellSet], recipe: Recipe, *, checkpoint: Path | None = None, every: int = 200
) -> Iterator[tuple[int, int, dict[str, float], StarterNet]]:
    """Train, yielding (steps done, steps in all, losses of the step, network) after every step.

    Parameters
    ----------
    sets
        The training cells.
    recipe
        What to train.
    checkpoint
        Folder where the run's state is kept; a run found there goes on.
    every
        Steps between checkpoints.
    """
    import torch

    rates = mean_rates(sets)
    mean, variance = moments(sets)
    # Variable for their level: what panels are chosen by.
    dispersion = variance / np.maximum(mean, 1e-4)
    even = np.maximum(rates, 0.05) ** -recipe.evenness
    gene_weight = torch.from_numpy(even.astype(np.float32))
    baseline = torch.from_numpy(np.log(rates).astype(np.float32))
    plan = schedule(sets, recipe)
    net = start(sets, recipe, rates)
    optimiser = torch.optim.AdamW(parameter_groups(net, recipe), lr=recipe.rate, betas=(0.9, 0.98), fused=True)
    first = _resume(checkpoint, net, optimiser, recipe) if checkpoint else 0
    for step in range(first, len(plan)):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, len(plan), recipe)
        chosen, rows = plan[step]
        rng = np.random.default_rng([recipe.seed, 2, step])
        batch = make_batch(sets[chosen], rows, rng, masking=recipe.masking, rates=rates, dispersion=dispersion)
        found = losses(net, batch, baseline, gene_weight)
        optimiser.zero_grad(set_to_none=True)
        (found["cell"] + recipe.token_weight * found["token"]).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        if checkpoint and ((step + 1) % every == 0 or step + 1 == len(plan)):
            _keep(checkpoint, net, optimiser, step + 1, recipe)
        yield step + 1, len(plan), {k: float(v.detach()) for k, v in found.items()}, net


def _keep(folder: Path, net: StarterNet, optimiser: torch.optim.Optimizer, step: int, recipe: Recipe) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"net.{k}": v.contiguous() for k, v in net.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{k}": v.contiguous() for k, v in state.items()}
    meta = {"step": str(step), "recipe": json.dumps(asdict(recipe), sort_keys=True)}
    partial = folder / "run.safetensors.part"
    save_file(tensors, partial, metadata=meta)
    partial.replace(folder / "run.safetensors")


def _resume(folder: Path, net: StarterNet, optimiser: torch.optim.Optimizer, recipe: Recipe) -> int:
    from safetensors import safe_open

    path = folder / "run.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if meta["recipe"] != json.dumps(asdict(recipe), sort_keys=True):
        log.warning("The run in %s has another recipe; starting afresh.", folder)
        return 0
    net.load_state_dict({k[4:]: v for k, v in tensors.items() if k.startswith("net.")})
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimiser."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(meta["step"])


def save(net: StarterNet, out: Path, recipe: Recipe, sets: list[CellSet], losses_at_end: dict[str, float]) -> None:
    """Write ``model.safetensors`` (gene tables in fp16, the rest in fp32) and ``config.json``."""
    import torch
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    large = ("embedding.weight", "decoder_genes.weight")
    tensors = {
        name: (t.to(torch.float16) if name in large else t.to(torch.float32)).contiguous()
        for name, t in net.state_dict().items()
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt", "family": "starter"})
    config = {
        "family": "starter",
        "format": 1,
        "vocabulary": "vocabulary.csv.gz",
        "network": net.config,
        "value": "log1p(count / library_size * 10000)",
        "max_length": 2048,
        "parameters": sum(p.numel() for p in net.parameters()),
        "training": {
            "recipe": asdict(recipe),
            "data": [s.record for s in sets],
            "training_loss": {k: round(v, 4) for k, v in losses_at_end.items()},
        },
    }
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def main() -> None:
    """Retrain ``starter``."""
    import click

    shipped = Path(__file__).resolve().parents[1] / "models" / "assets" / "starter" / "vocabulary.csv.gz"

    @click.command(help="Train the starter model and write its folder.")
    @click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder that gets the model.")
    @click.option("--epochs", default=Recipe.epochs, show_default=True, help="Times every cell is seen.")
    @click.option("--rate", default=Recipe.rate, show_default=True, help="Highest learning rate.")
    @click.option("--layers", default=Recipe.layers, show_default=True)
    @click.option("--batch", default=Recipe.batch, show_default=True, help="Cells per step.")
    @click.option("--seed", default=Recipe.seed, show_default=True)
    @click.option("--evenness", default=Recipe.evenness, show_default=True, help="How even genes weigh in the loss.")
    @click.option("--threads", default=2, show_default=True, help="CPU threads.")
    @click.option("--minutes", default=None, type=float, help="Stop after so long; the same command goes on.")
    @click.option(
        "--vocabulary", default=shipped, show_default="the shipped one", type=click.Path(path_type=Path, exists=True)
    )
    def command(
        out: Path,
        epochs: float,
        rate: float,
        layers: int,
        batch: int,
        seed: int,
        evenness: float,
        threads: int,
        minutes: float | None,
        vocabulary: Path,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        recipe = Recipe(epochs=epochs, rate=rate, layers=layers, batch=batch, evenness=evenness, seed=seed)
        genes = Vocabulary.from_csv(vocabulary)
        sets = [corpus.load(name, genes) for name in corpus.TRAINING_SETS]
        for cellset in sets:
            click.echo(
                f"{cellset.name}: {len(cellset):,} cells, {cellset.record['umi_share_in_vocabulary']:.1%} of UMIs known"
            )
        began = time.perf_counter()
        recent: list[dict[str, float]] = []
        step, steps = 0, 1
        net = None
        for step, steps, found, net in train(sets, recipe, checkpoint=out / "run"):  # noqa: B007
            recent = [*recent[-99:], found]
            spent = time.perf_counter() - began
            if step % 50 == 0 or step == steps:
                mean = {k: float(np.mean([r[k] for r in recent])) for k in found}
                click.echo(
                    f"step {step:,}/{steps:,}  {spent / 60:.1f} min  cell {mean['cell']:.4f}  "
                    f"token {mean['token']:.4f}  (gene means: {mean['floor']:.4f})"
                )
            if minutes is not None and spent > 60 * minutes:
                break
        if net is None or step < steps:
            click.echo(f"Stopped at step {step:,} of {steps:,}; run the same command to go on.")
            return
        save(net, out, recipe, sets, {k: float(np.mean([r[k] for r in recent])) for k in recent[0]})
        if vocabulary.resolve() != (out / "vocabulary.csv.gz").resolve():
            (out / "vocabulary.csv.gz").write_bytes(vocabulary.read_bytes())
        click.echo(f"Wrote {out} after {(time.perf_counter() - began) / 60:.1f} minutes.")

    command()


if __name__ == "__main__":
    main()
