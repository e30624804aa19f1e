"""The checks behind :func:`scfm_lab.testing.check_model`."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab._drawn_cells import drawn_cells, with_unknown_genes
from scfm_lab._model_claims import Claims, raise_faults
from scfm_lab.errors import Cancelled, CountsError, GenesError, ModelError
from scfm_lab.models.contract import Model
from scfm_lab.testing import Fault, NotApplicable, Report, run_checks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfm_lab.plugins import Contribution

#: How far the vector of one and the same cell may differ, on the CPU in float32.
TOLERANCE = 1e-5
#: What a run may leave behind beyond what its result takes: interned names, warnings' registries.
_SLACK_BYTES = 256 * 1024


class ModelChecks(Claims):
    """One model, cells to check it on, and the checks as methods; each raises :class:`Fault` with what it saw."""

    def __init__(
        self,
        model: Model,
        adata: AnnData | None,
        subject: str,
        declared: Contribution | None,
        *,
        config: Mapping[str, Any] | None = None,
        process: bool = True,
    ) -> None:
        self.model = model
        self.subject = subject
        self.declared = declared
        self.config = config
        self.process = process
        self._given = adata

    @classmethod
    def of(cls, model: Model | str, adata: AnnData | None, **more: Any) -> ModelChecks:
        """Open what is to be checked, on the CPU in float32."""
        if isinstance(model, Model):
            return cls(model, adata, model.spec.name, None, **more)
        from scfm_lab.models.load import load_model
        from scfm_lab.plugins import discover

        declared = {item.id: item for item in discover().contributions("models")}
        opened = load_model(model, device="cpu", precision="float32")
        return cls(opened, adata, str(model), declared.get(str(model)), **more)

    def run(self) -> Report:
        """Run all checks; the model is given back on the device it came from."""
        before = self.model.device, "auto" if self.model.auto_precision else self.model.precision
        self.model.to("cpu", "float32")
        try:
            return run_checks(self.subject, self._checks())
        finally:
            self.model.to(*before)

    def _checks(self) -> list[tuple[str, Callable[[], str | None]]]:
        return [
            ("the spec is complete", self.spec),
            ("the manifest agrees with the spec", self.manifest),
            ("the digest of the settings", self.settings),
            ("shapes and types", self.shapes),
            ("the cells stay as they are", self.input_unchanged),
            ("a cell's vector does not depend on the cells' order", self.cell_order),
            ("a cell's vector does not depend on the batch", self.batches),
            ("a cell's vector does not depend on the cells beside it", self.neighbours),
            ("a cell's vector does not depend on the genes' order", self.gene_order),
            ("the same input gives the same vectors", self.deterministic),
            ("genes and cells it does not know", self.unknown_genes),
            ("input that makes no sense is refused", self.bad_input),
            ("doses", self.doses),
            ("abilities", self.abilities),
            ("progress", self.progress),
            ("cancelling within one batch", self.cancel),
            ("memory is released", self.memory),
        ]

    # --- what is looked at -------------------------------------------------------------

    @cached_property
    def pristine(self) -> AnnData:
        """The cells to check on, as no model has seen them; each holds counts of genes that the model knows."""
        return self._given if self._given is not None else drawn_cells(self.model)

    @cached_property
    def adata(self) -> AnnData:
        """A copy that models are given."""
        return self.pristine.copy()

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors that all others are compared with."""
        return self.embed(self.adata)

    def embed(self, adata: AnnData, **options: Any) -> NDArray[np.float32]:
        return self.model.encode(self.model.tokenize(adata), **options).cell

    # --- the checks --------------------------------------------------------------------

    def shapes(self) -> str:
        tokens = self.model.tokenize(self.adata)
        n, width, wrong = self.adata.n_obs, self.model.spec.width, []
        if len(tokens) != n:
            wrong.append(f"tokenize gives {len(tokens)} cells for {n}")
        for name, dtype in (("ids", np.int64), ("offsets", np.int64), ("values", np.float32), ("positions", np.int64)):
            array = getattr(tokens, name)
            if array is not None and array.dtype != dtype:
                wrong.append(f"tokens.{name} is {array.dtype}, it must be {np.dtype(dtype)}")
        if tokens.offsets[0] != 0 or (tokens.lengths < 0).any():
            wrong.append("tokens.offsets must begin with 0 and never fall")
        limit = self.model.spec.max_length
        if limit and tokens.lengths.max(initial=0) > limit:
            wrong.append(f"a cell has {tokens.lengths.max()} tokens, the spec's max_length is {limit}")
        states = self.model.encode(tokens, genes=True)
        raise_faults(wrong)
        if states.cell.dtype != np.float32 or states.cell.shape != (n, width):
            raise Fault(f"states.cell is {states.cell.dtype} {states.cell.shape}, it must be float32 {(n, width)}")
        if not np.isfinite(states.cell).all():
            raise Fault(f"{int((~np.isfinite(states.cell)).any(axis=1).sum())} cells with known genes have no vector")
        if states.genes is not None and (
            states.genes.dtype != np.float32 or states.genes.ndim != 2 or len(states.genes) != len(tokens.ids)
        ):
            raise Fault(f"states.genes is {states.genes.dtype} {states.genes.shape}, not one row for each token")
        if np.ptp(states.cell, axis=0).max() == 0:
            raise Fault("all cells have the same vector")
        return f"{n} cells × {width}"

    def input_unchanged(self) -> None:
        keep = self.pristine
        adata = keep.copy()
        self.embed(adata)
        if (adata.X != keep.X).nnz if hasattr(adata.X, "nnz") else not np.array_equal(adata.X, keep.X):
            raise Fault("X was changed")
        for slot in ("obs", "var"):
            if not getattr(adata, slot).equals(getattr(keep, slot)):
                raise Fault(f"{slot} was changed")
        for slot in ("obsm", "varm", "layers", "uns"):
            if set(getattr(adata, slot)) != set(getattr(keep, slot)):
                raise Fault(f"{slot} was changed")

    def cell_order(self) -> str:
        order = np.random.default_rng(1).permutation(self.adata.n_obs)
        return _same(self.embed(self.adata[order].copy()), self.vectors[order])

    def batches(self) -> str:
        one = _same(self.embed(self.adata, batch_size=1), self.vectors)
        _same(self.embed(self.adata, batch_size=7), self.vectors)
        return one

    def neighbours(self) -> str:
        alone = [0, self.adata.n_obs // 2, self.adata.n_obs - 1]
        return _same(np.vstack([self.embed(self.adata[[i]].copy()) for i in alone]), self.vectors[alone])

    def gene_order(self) -> str:
        if self.model.spec.gene_order:
            raise NotApplicable(f"the model says that it reads genes in an order: {self.model.spec.gene_order}")
        order = np.random.default_rng(2).permutation(self.adata.n_vars)
        return _same(self.embed(self.adata[:, order].copy()), self.vectors)

    def deterministic(self) -> None:
        import torch

        first, second = self.model.tokenize(self.adata), self.model.tokenize(self.adata)
        for name in ("ids", "values", "offsets", "positions"):
            if not np.array_equal(getattr(first, name), getattr(second, name)):
                raise Fault(f"tokens.{name} differ from one call to the next")
        of_numpy, of_torch = _numpy_state(), torch.get_rng_state()
        again = self.embed(self.adata)
        if not np.array_equal(again, self.vectors):
            raise Fault(f"the vectors differ by {np.abs(again - self.vectors).max():.1e} from one call to the next")
        if of_numpy != _numpy_state() or not torch.equal(of_torch, torch.get_rng_state()):
            raise Fault("it draws from numpy's or torch's global random state; use a generator of its own")

    def unknown_genes(self) -> str:
        from scfm_lab.cells.audit import audit_genes

        mixed = with_unknown_genes(self.adata)
        vectors = self.embed(mixed)
        blind = np.asarray(np.isnan(vectors).all(axis=1))
        if not np.isnan(vectors[:2]).all():
            raise Fault("cells without a known gene (the first two) must have NaN throughout")
        if blind[2:].any():
            raise Fault(f"{int(blind[2:].sum())} cells that have known genes have no vector beside two that have none")
        counted = audit_genes(mixed, self.model).cells_without_genes
        if counted != 2:
            raise Fault(f"the audit counts {counted} cells without a known gene, there are 2")
        foreign = self.adata.copy()
        foreign.var_names = [f"no-such-gene-{i}" for i in range(foreign.n_vars)]
        foreign.var = foreign.var[[]]
        try:
            self.model.tokenize(foreign)
        except GenesError:
            return f"{counted} cells without a known gene"
        raise Fault("cells without any known gene must be refused with a GenesError")

    def bad_input(self) -> None:
        logged = self.adata.copy()
        logged.X = logged.X.astype(np.float32).log1p() if hasattr(logged.X, "log1p") else np.log1p(logged.X)
        for what, error, attempt in (
            ("log-normalised counts", CountsError, lambda: self.model.tokenize(logged)),
            ("an unknown option", ModelError, lambda: self.model.tokenize(self.adata, options={"no-such-option": 1})),
        ):
            try:
                attempt()
            except error:
                continue
            raise Fault(f"{what} must be refused with a {error.__name__}")

    def doses(self) -> str:
        """A dose of 1 changes nothing, and knocking a gene out changes no cell that does not express it."""
        if "perturb" not in self.model.spec.abilities:
            raise NotApplicable("the model does not say that it can perturb")
        from scfm_lab.cells.cells import Cells

        cells = Cells.from_anndata(self.adata, fields=self.model.fields)
        plain = self.model.encode(self.model.tokenize(cells)).cell
        same = self.model.encode(self.model.tokenize(cells.with_counts(cells.counts.copy()))).cell
        if not np.array_equal(plain, same):
            raise Fault(f"a dose of 1 changes vectors by {np.abs(plain - same).max():.1e}; it must change nothing")
        known = self.model.match(cells.genes).columns
        detected = np.asarray((cells.counts[:, known] > 0).sum(axis=0)).ravel()
        gene = int(known[np.argmin(np.abs(detected - len(cells) / 2))])
        counts = cells.counts.tolil()
        counts[:, gene] = 0
        knocked = counts.tocsr().astype(np.float32)
        expresses = np.zeros(len(cells), dtype=bool)
        expresses[cells.counts[:, gene].nonzero()[0]] = True
        out = self.model.encode(self.model.tokenize(cells.with_counts(knocked))).cell
        if expresses.all():
            raise NotApplicable(f"every cell expresses {cells.genes.names[gene]}")
        silent = np.abs(out - plain)[~expresses].max()
        if silent > TOLERANCE:
            raise Fault(f"a knockout changes cells that do not express the gene, by {silent:.1e}")
        return f"{int((np.abs(out - plain).max(axis=1) > 0).sum())} of {int(expresses.sum())} expressing cells move"

    def abilities(self) -> str:
        spec, wrong = self.model.spec, []
        if "gene_embeddings" in spec.abilities:
            table = self.model.gene_embeddings()
            if not table.index.is_unique or table.isna().any().any() or not len(table):
                wrong.append("gene_embeddings() must give one row per gene, without NaN")
        if "impute" in spec.abilities:
            genes = np.arange(min(5, spec.n_genes))
            counts = self.model.impute(self.model.tokenize(self.adata), genes)
            if counts.shape != (len(self.vectors), len(genes)) or not np.isfinite(counts).all() or (counts < 0).any():
                wrong.append(f"impute() gives {counts.shape}, it must give finite counts, cells × genes")
        if "attention" in spec.abilities:
            maps = self.model.attention(self.model.tokenize(self.adata[:2].copy()))
            if len(maps) != 2 or not all(np.isfinite(one).all() and one.shape[-1] == one.shape[-2] for one in maps):
                wrong.append("attention() must give one map per cell, finite and tokens × tokens")
        for ability, call in (
            ("gene_embeddings", self.model.gene_embeddings),
            ("attention", lambda: self.model.attention(self.model.tokenize(self.adata))),
            ("fit", lambda: self.model.fit(self.adata)),
            ("impute", lambda: self.model.expected_counts(self.vectors, np.zeros(1, np.int64))),
        ):
            if ability not in spec.abilities and not _refuses(call):
                wrong.append(f"'{ability}' is not among the abilities, so asking for it must be a ModelError")
        raise_faults(wrong)
        return ", ".join(sorted(spec.abilities))

    def progress(self) -> None:
        seen: list[tuple[int, int]] = []
        self.embed(self.adata, batch_size=4, progress=lambda done, total, *_: seen.append((done, total)))
        done = [item[0] for item in seen]
        if not seen or done != sorted(done) or seen[-1] != (self.adata.n_obs, self.adata.n_obs):
            raise Fault(f"progress must rise to ({self.adata.n_obs}, {self.adata.n_obs}); it told {seen[-3:]}")

    def cancel(self) -> str:
        stop, after = threading.Event(), []

        def watch(done: int, _total: int, *_: Any) -> None:
            if stop.is_set():
                after.append(done)
            elif done > 0:
                stop.set()

        try:
            self.embed(self.adata, batch_size=2, progress=watch, cancel=stop)
        except Cancelled:
            if len(after) > 1:
                raise Fault(f"{len(after)} batches were run after it was asked to stop") from None
            return f"stopped after {len(after)} more batches"
        raise Fault("it went on to the end after it was asked to stop; pass `cancel` on to the engine")

    def memory(self) -> str:
        """What repeated runs leave behind, and whether a model that nobody holds goes away."""
        for _ in range(2):
            self.embed(self.adata)
        gc.collect()
        # What is there already is not looked through again and again; with many libraries loaded that takes seconds.
        ours = gc.get_freeze_count() == 0
        if ours:
            gc.freeze()
        try:
            return self._left_behind()
        finally:
            if ours:
                gc.unfreeze()

    def _left_behind(self) -> str:
        tracemalloc.start()
        try:
            self.embed(self.adata)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(4):
                self.embed(self.adata)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        if grown > _SLACK_BYTES:
            raise Fault(f"four more runs keep {grown / 2**20:.1f} MiB; something holds on to cells or results")
        if self.declared is not None:
            from scfm_lab.models.load import load_model

            opened = load_model(self.declared.id, device="cpu", precision="float32")
            opened.encode(opened.tokenize(self.adata))
            gone = weakref.ref(opened)
            del opened
            gc.collect()
            if gone() is not None:
                raise Fault("a model that was opened, used and let go is still in memory; something global holds it")
        return f"four more runs keep {max(grown, 0) / 1024:.0f} KiB"


# --- small helpers ---------------------------------------------------------------------


def _same(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> str:
    furthest = float(np.abs(found - wanted).max(initial=0))
    if not furthest <= TOLERANCE:  # NaN is no agreement either
        raise Fault(f"the vectors differ by up to {furthest:.1e}; {TOLERANCE:.0e} is allowed")
    return f"largest difference {furthest:.1e}"


def _numpy_state() -> str:
    # Looked at, never drawn from.
    return repr(np.random.get_state(legacy=False))  # noqa: NPY002


def _refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except ModelError:
        return True
    except Exception:  # noqa: BLE001 - any other error is not an answer in words
        return False
    return False
