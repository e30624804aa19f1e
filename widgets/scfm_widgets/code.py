"""The bench as Python: what a person would have to type to get what is on the screen."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_widgets.codec import pack_mask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scfm_widgets.lab import Lab

#: Selected cells are named one by one up to here.
_MOST_NAMES = 12


def code_of(lab: Lab) -> str:
    """Give Python that reproduces what is on the bench; ``adata`` stands for the cells as they were loaded."""
    writer = _Writer(lab)
    return writer.text()


class _Writer:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.imports = {"import scfm_lab as sl", "from scfm_widgets import Lab"}
        self.lines: list[str] = []
        self.models: dict[str, str] = {}
        self.shown: dict[str, str] = {}

    def text(self) -> str:
        lab = self.lab
        for task in ("embed", "compare"):
            if task in lab.results:
                getattr(self, f"_{task}")(lab.results[task])
        self._planes()
        for task in ("trajectory", "perturb", "screen"):
            if task in lab.results:
                getattr(self, f"_{task}")(lab.results[task])
        self._bench()
        head = [*sorted(self.imports, key=lambda line: (line.startswith("from"), line)), ""]
        about = (
            f"# adata: the {lab.adata.n_obs:,} cells × {lab.adata.n_vars:,} genes of this bench, as they were loaded"
        )
        return "\n".join([*head, about, *self.lines]) + "\n"

    # ------------------------------------------------------------------------------------- results

    def _model(self, record: Mapping[str, Any]) -> str:
        """Give the variable of an opened model, by its resolved version."""
        source = exact_source(record)
        if source not in self.models:
            name = "model" if not self.models else f"model_{len(self.models) + 1}"
            self.models[source] = name
            self.lines.append(f"{name} = sl.load_model({source!r})")
        return self.models[source]

    def _embed(self, result: Any) -> None:
        model = self._model(result.provenance)
        self.lines.append(f"embedding = sl.embed(adata, {model}, key_added={result.key!r})")
        self.shown["embed"] = "embedding"

    def _compare(self, result: Any) -> None:
        self.imports.add("from scfm_lab.tasks.compare import compare")
        a, b = (self._model(record) for record in result.provenance["of"])
        grouped = f", groupby={result.groupby!r}" if result.groupby else ""
        self.lines.append(f"comparison = compare(adata, {a}, {b}{grouped})")
        self.shown["compare"] = "comparison"

    def _planes(self) -> None:
        """Layouts that were made on the bench and are shown."""
        lab = self.lab
        records = dict(lab.adata.uns.get("scfm", {}))
        for key in (lab.state["layout"], lab.state["second"]):
            record = dict(records.get(key, {}))
            if record.get("task") != "layout" or record.get("of") not in lab.adata.obsm:
                continue
            if not any(str(record["of"]) in line for line in self.lines):
                continue
            self.imports.add("from scfm_lab.tasks.layout import umap_plane, write_plane")
            made = f"umap_plane(adata.obsm[{record['of']!r}], seed={int(record['seed'])})"
            self.lines.append(f"write_plane(adata, {record['of']!r}, {str(record['model'])!r}, {made})")

    def _trajectory(self, result: Any) -> None:
        told = result.provenance
        grouped = f", groupby={result.groupby!r}" if result.groupby in self.lab.adata.obs else ""
        basis = f", basis={result.layout.basis!r}" if result.layout.basis in self.lab.adata.obsm else ""
        self.lines.append(
            f"path = sl.trajectory(adata, use_rep={told['use_rep']!r}, root={told['root']!r}{grouped}{basis})"
        )
        self.shown["trajectory"] = "path"

    def _perturb(self, result: Any) -> None:
        model = self._model(result.provenance)
        grouped = f", groupby={result.provenance['groupby']!r}" if result.provenance.get("groupby") else ""
        basis = f", basis={result.layout.basis!r}" if result.layout.basis in self.lab.adata.obsm else ""
        null = "" if result.has_null else ", null=False"
        doses = {gene: float(dose) for gene, dose in result.doses.items()}
        self.lines.append(f"effect = sl.perturb(adata, {model}, {doses!r}{grouped}{basis}{null})")
        self.shown["perturb"] = "effect"

    def _screen(self, result: Any) -> None:
        told = result.provenance
        if told["cells"] != self.lab.adata.n_obs:
            self.lines.append("# The screen was of some of the cells; it is not repeated here.")
            return
        model = self._model(told)
        grouped = f", groupby={told['groupby']!r}" if told.get("groupby") else ""
        self.lines.append(f"screened = sl.screen(adata, {model}, dose={result.dose!r}{grouped})")
        self.shown["screen"] = "screened"

    # --------------------------------------------------------------------------------------- bench

    def _bench(self) -> None:
        lab = self.lab
        state = {key: value for key, value in lab.state.items() if key != "panel"}
        source = state.pop("model")
        model = next((name for made, name in self.models.items() if made == source), None)
        self.lines += ["", f"lab = Lab(adata, model={model or repr(source)})"]
        newest = lab.session.newest
        for task in sorted(self.shown, key=lambda task: task == newest):
            self.lines.append(f"lab.result = {self.shown[task]}")
        # A result chooses colours and a plane of its own; what the person chose comes after.
        self.lines.append(f"lab.state = {state!r}")
        rest = {gene: float(dose) for gene, dose in lab.doses.items()}
        shown: Any = lab.results.get("perturb")
        if rest and (shown is None or set(rest) != set(shown.doses)):
            self.lines.append(f"lab.doses = {rest!r}")
        self._selection()
        self.lines.append("lab")

    def _selection(self) -> None:
        lab = self.lab
        mask = lab.selection
        rows = np.flatnonzero(mask)
        if len(rows) == 0:
            return
        if len(rows) <= _MOST_NAMES:
            self.lines.append(f"lab.selection = {[str(name) for name in lab.adata.obs_names[rows]]!r}")
            return
        self.imports |= {"import base64", "import zlib", "from scfm_widgets.codec import unpack_mask"}
        packed = base64.b64encode(zlib.compress(pack_mask(mask), 9)).decode()
        self.lines.append(f"# the {len(rows):,} cells that are selected, one bit for each cell of adata")
        self.lines.append(f"lab.selection = unpack_mask(zlib.decompress(base64.b64decode({packed!r})), adata.n_obs)")


def exact_source(record: Mapping[str, Any]) -> str:
    """Give the source of a model with its resolved version, never only an alias."""
    source, version = str(record.get("source") or record["model"]), str(record.get("version") or "")
    return f"models:/{version}" if source.startswith("models:/") and "/" in version else source
