"""The loop of a fine-tuning: steps, validation, early stopping, and a state on disk that goes on after a kill.

Every epoch's order is drawn from (seed, epoch), so that a run that was stopped ends in exactly the weights that it
would have had.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch  # noqa: TID253  (this module is imported only where a network is trained)

from scfm_lab.errors import Cancelled, DataError, StorageError
from scfm_lab.evaluation.linear_probe import log_loss
from scfm_lab.inference.engine import batches, make_batch
from scfm_lab.inference.precision import FLOAT32
from scfm_lab.models.products import running
from scfm_lab.training.recipe import groups, trainable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scfm_lab.models.contract import Model
    from scfm_lab.models.tokens import Tokens
    from scfm_lab.training.labelled import Split
    from scfm_lab.training.recipe import Recipe

STATE = "finetuning.safetensors"
#: Tokens that go through the network at once while gradients are kept; a step of more is made of several.
TOKENS_AT_ONCE = {"cpu": 16_384, "mps": 32_768, "cuda": 131_072}


@dataclass
class Run:
    """A fine-tuning on its way.

    Attributes
    ----------
    model
        The copy that is trained.
    head
        What reads its cells.
    features
        What the head reads of every cell, where nothing below it is trained; else None.
    """

    model: Model
    head: torch.nn.Module
    tokens: Tokens
    codes: NDArray[np.int64]
    split: Split
    recipe: Recipe
    weights: NDArray[np.float64] | None = None
    features: NDArray[np.float32] | None = None
    tokens_at_once: int = 0
    identity: str = ""
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0

    def __post_init__(self) -> None:
        self.device = torch.device(self.model.device)
        self.trained = {} if self.features is not None else trainable(self.model, self.recipe.freeze)
        for parameter in self.trained.values():
            parameter.requires_grad_(True)
        self.head = self.head.to(self.device)
        self.optimiser = torch.optim.AdamW(groups(self.model, self.trained, self.head, self.recipe), betas=(0.9, 0.98))
        self.limit = self.tokens_at_once or TOKENS_AT_ONCE.get(self.device.type, TOKENS_AT_ONCE["cpu"])
        self.steps_per_epoch = -(-len(self.split.train) // self.recipe.batch_size)
        self._best: dict[str, torch.Tensor] = {}

    @property
    def steps(self) -> int:
        """Steps if it is not stopped early."""
        return self.steps_per_epoch * self.recipe.epochs

    # --- one step ------------------------------------------------------------------------

    def rows(self, step: int) -> NDArray[np.int64]:
        """Cells of a step: each epoch sees every training cell once, in an order of its own."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.recipe.seed, 0xF17, epoch]).permutation(len(self.split.train))
        size = self.recipe.batch_size
        return self.split.train[order[place * size : (place + 1) * size]]

    def logits(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        """Logits of some cells, in parts that fit the memory: pairs of rows and (cells, labels)."""
        if self.features is not None:
            yield rows, self.head(torch.as_tensor(self.features[rows], device=self.device))
            return
        for picked in batches(self.tokens.lengths[rows], tokens=self.limit):
            part = rows[picked]
            batch, _ = make_batch(self.tokens, part, self.device)
            with running(FLOAT32):
                yield part, self.head(self.model._head_inputs(batch, self.recipe.head))  # noqa: SLF001

    def step(self, number: int) -> float:
        """Take one step; the loss before it."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * schedule(number, self.steps, self.recipe.warmup)
        rows = self.rows(number)
        whole = float(len(rows)) if self.weights is None else float(self.weights[self.codes[rows]].sum())
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for part, logits in self.logits(rows):
            loss = self._loss(logits, part) / whole
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_([*self.trained.values(), *self.head.parameters()], 1.0)
        self.optimiser.step()
        return total

    def _loss(self, logits: torch.Tensor, rows: NDArray[np.int64]) -> torch.Tensor:
        codes = torch.as_tensor(self.codes[rows], device=logits.device)
        each = torch.nn.functional.cross_entropy(logits.float(), codes, reduction="none")
        if self.weights is not None:
            each = each * torch.as_tensor(self.weights[self.codes[rows]], dtype=each.dtype, device=each.device)
        return each.sum()

    # --- validation ----------------------------------------------------------------------

    def evaluate(self) -> dict[str, float]:
        """Log loss, accuracy and macro-F1 on the validation cells."""
        from scfm_lab.evaluation.label_scores import label_scores

        rows = self.split.validation
        n_labels = 0
        parts: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        with torch.no_grad():
            for part, logits in self.logits(rows):
                parts.append((part, logits.float().cpu().numpy()))
                n_labels = logits.shape[1]
        out = np.zeros((len(self.codes), n_labels), np.float32)
        for part, found in parts:
            out[part] = found
        scores = label_scores(self.codes[rows], out[rows].argmax(axis=1), draws=0)
        loss = log_loss(out[rows].astype(np.float64), self.codes[rows], self.weights)
        return {"validation_loss": loss, "validation_accuracy": scores.accuracy, "validation_macro_f1": scores.macro_f1}

    def _mark(self, epoch: int, training_loss: float, seconds: float) -> None:
        found = self.evaluate()
        self.history.append(
            {"epoch": epoch, "training_loss": training_loss, **found, "seconds": round(seconds, 3), "time": time.time()}
        )
        if epoch == 0 or found["validation_loss"] < self.history[self.best_epoch]["validation_loss"]:
            self.best_epoch = epoch
            self._best = {name: tensor.detach().clone() for name, tensor in self._state().items()}

    def _state(self) -> dict[str, torch.Tensor]:
        return {
            **{f"net.{name}": parameter.data for name, parameter in self.trained.items()},
            **{f"head.{name}": tensor for name, tensor in self.head.state_dict().items()},
        }

    # --- the whole -----------------------------------------------------------------------

    def fit(
        self,
        *,
        checkpoint: Path | None = None,
        every: float = 120.0,
        progress: Callable[..., None] | None = None,
        cancel: Any = None,
    ) -> None:
        """Train until the validation loss has not fallen for as long as the recipe's patience, and keep the best weights.

        Parameters
        ----------
        checkpoint
            Folder of the run's state; a run that is found there goes on.
        every
            Seconds between states, besides one after each epoch.
        progress
            Called as ``progress(cells, cells in all)``.
        cancel
            A ``threading.Event``; once set, the work stops before the next step.

        Raises
        ------
        Cancelled
            If `cancel` was set.
        """
        first, losses = self._resume(checkpoint) if checkpoint else (0, [])
        began = kept = time.monotonic()
        n = len(self.split.train)
        if not self.history:
            self._mark(0, float("nan"), 0.0)
        step = first
        while step < self.steps and not self._done():
            if cancel is not None and cancel.is_set():
                if checkpoint:
                    self._keep(checkpoint, step, losses)
                raise Cancelled(
                    f"Stopped after {step:,} of {self.steps:,} steps; "
                    + (f"the same call goes on from {checkpoint}." if checkpoint else "nothing was kept.")
                )
            losses.append(self.step(step))
            step += 1
            if progress is not None:
                progress(step * n // self.steps_per_epoch, n * self.recipe.epochs)
            ended = step % self.steps_per_epoch == 0
            if ended:
                self._mark(step // self.steps_per_epoch, float(np.mean(losses)), time.monotonic() - began)
                began, losses = time.monotonic(), []
            if checkpoint and (ended or time.monotonic() - kept > every):
                self._keep(checkpoint, step, losses)
                kept = time.monotonic()
        if progress is not None:
            progress(n * self.recipe.epochs, n * self.recipe.epochs)
        with torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(self._best[name])
        for parameter in [*self.trained.values(), *self.head.parameters()]:
            parameter.requires_grad_(False)
            parameter.grad = None

    def _done(self) -> bool:
        return self.history[-1]["epoch"] - self.best_epoch >= self.recipe.patience

    # --- on disk -------------------------------------------------------------------------

    def _keep(self, folder: Path, step: int, losses: list[float]) -> None:
        from safetensors.torch import save_file

        tensors = {f"now.{name}": tensor for name, tensor in self._state().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in state.items()}
        told = {
            "identity": self.identity,
            "step": step,
            "losses": losses,
            "history": self.history,
            "best_epoch": self.best_epoch,
        }
        partial = folder / f"{STATE}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Copies: two names of one tensor cannot lie in one file.
            save_file(
                {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()},
                partial,
                metadata={"run": json.dumps(told)},
            )
            partial.replace(folder / STATE)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StorageError(
                f"The state of the run cannot be kept in {folder} ({error.strerror or error})."
            ) from error

    def _resume(self, folder: Path) -> tuple[int, list[float]]:
        from safetensors import SafetensorError, safe_open

        path = folder / STATE
        if not path.is_file():
            return 0, []
        try:
            with safe_open(path, framework="pt") as file:
                told = json.loads(file.metadata()["run"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"The state of a run in {path} is damaged ({error}); delete it to begin anew."
            ) from error
        if told.get("identity") != self.identity:
            raise DataError(
                f"{path} is the state of another run (other cells, model or settings); give another checkpoint folder, or "
                "delete it."
            )
        with torch.no_grad():
            for name, target in self._state().items():
                target.copy_(tensors[f"now.{name}"].to(target.device))
        self._best = {k.removeprefix("best."): v.to(self.device) for k, v in tensors.items() if k.startswith("best.")}
        state: dict[int, dict[str, Any]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        self.history, self.best_epoch = list(told["history"]), int(told["best_epoch"])
        return int(told["step"]), list(told["losses"])


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the highest rate: a linear rise, then half a cosine to a hundredth."""
    rise = max(1, int(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(1, steps - rise)
    return float(0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done)))
