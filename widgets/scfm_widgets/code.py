"""The bench as Python: what a person would have to type to get what is on the screen."""

from __future__ import annotations

import base64
import inspect
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_widgets.codec import pack_mask
from scfm_widgets.session import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

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
        #: Variables of opened models: by how they were opened, and by their source.
        self.models: dict[str, str] = {}
        self.sources: dict[str, str] = {}
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
        config = dict(record.get("config") or {})
        opened = f"sl.load_model({source!r}{f', config={config!r}' if config and is_plain(config) else ''})"
        if opened not in self.models:
            name = "model" if not self.models else f"model_{len(self.models) + 1}"
            self.models[opened] = name
            self.sources.setdefault(source, name)
            self.lines.append(f"{name} = {opened}")
        return self.models[opened]

    def _call(self, target: str, function: Callable[..., Any], first: str, **given: Any) -> None:
        """Write a call with what differs from the function's defaults."""
        known = inspect.signature(function).parameters
        said = []
        for name, value in given.items():
            if name not in known or value == known[name].default or value is None:
                continue
            if is_plain(value):
                said.append(f"{name}={value!r}")
            else:
                self.lines.append(f"# {name} was a {type(value).__name__}, which cannot be written down here")
        self.lines.append(f"{target} = {', '.join([f'sl.{function.__name__}({first}', *said])})")

    def _embed(self, result: Any) -> None:
        import scfm_lab as sl

        model = self._model(result.provenance)
        self._call("embedding", sl.embed, f"adata, {model}", key_added=result.key, **arguments(result.provenance))
        self.shown["embed"] = "embedding"

    def _compare(self, result: Any) -> None:
        self.imports.add("from scfm_lab.tasks.compare import compare")
        a, b = (self._model(record) for record in result.provenance["of"])
        from scfm_lab.tasks.compare import compare

        self._call("comparison", compare, f"adata, {a}, {b}", groupby=result.groupby, **arguments(result.provenance))
        self.lines[-1] = self.lines[-1].replace("sl.compare(", "compare(", 1)
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
        import scfm_lab as sl

        told, adata = result.provenance, self.lab.adata
        if told["direction"] == "given":
            self.lines.append("# The direction came from transition=, which is not repeated here.")
        self._call(
            "path",
            sl.trajectory,
            "adata",
            use_rep=told["use_rep"],
            root=told["root"],
            groupby=result.groupby if result.groupby in adata.obs else None,
            basis=result.layout.basis if result.layout.basis in adata.obsm else None,
            **arguments(told),
        )
        self.shown["trajectory"] = "path"

    def _perturb(self, result: Any) -> None:
        import scfm_lab as sl

        told = result.provenance
        model = self._model(told)
        doses = {gene: float(dose) for gene, dose in result.doses.items()}
        basis = result.layout.basis if result.layout.basis in self.lab.adata.obsm else None
        given = {**arguments(told), "groupby": told.get("groupby") or None, "seed": told["seed"]}
        levels = {gene: float(level) for gene, level in result.set_to.items()} or None
        self._call(
            "effect",
            sl.perturb,
            f"adata, {model}, {doses!r}",
            set_to=levels,
            basis=basis,
            null=result.has_null,
            **given,
        )
        self.shown["perturb"] = "effect"

    def _screen(self, result: Any) -> None:
        import scfm_lab as sl

        told, lab = result.provenance, self.lab
        cells = "adata"
        if lab.session.screened is not None and lab.session.screened[0] is result:
            cells = "screened_cells"
            self.lines.append(f"screened_cells = adata[{self._mask(lab.session.screened[1])}].copy()")
        elif told.get("cells_given", told["cells"]) != lab.adata.n_obs or told.get("reference_given"):
            self.lines.append(
                "# The screen was of other cells than these, or against a reference; it is not repeated here."
            )
            return
        model = self._model(told)
        given = {**arguments(told), "groupby": told.get("groupby") or None, "dose": result.dose, "seed": told["seed"]}
        self._call("screened", sl.screen, f"{cells}, {model}", **given)
        self.shown["screen"] = "screened"

    # --------------------------------------------------------------------------------------- bench

    def _bench(self) -> None:
        lab = self.lab
        state = {key: value for key, value in lab.state.items() if key != "panel" or value is not None}
        source = self._pinned(state.pop("model"))
        state["against"] = self._pinned(state["against"])
        title = f", title={lab.title!r}" if lab.title != "scfm-lab" else ""
        self.lines += ["", f"lab = Lab(adata, model={self.sources.get(source or '', repr(source))}{title})"]
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

    def _pinned(self, source: str | None) -> str | None:
        """A source with the version that an alias means."""
        version = self.lab.session.version_of(source) if source else None
        return f"{REGISTRY}{version}" if version else source

    def _selection(self) -> None:
        lab = self.lab
        mask = lab.selection
        rows = np.flatnonzero(mask)
        if len(rows) == 0:
            return
        if len(rows) <= _MOST_NAMES:
            self.lines.append(f"lab.selection = {[str(name) for name in lab.adata.obs_names[rows]]!r}")
            return
        self.lines.append(f"# the {len(rows):,} cells that are selected, one bit for each cell of adata")
        self.lines.append(f"lab.selection = {self._mask(mask)}")

    def _mask(self, mask: NDArray[np.bool_]) -> str:
        self.imports |= {"import base64", "import zlib", "from scfm_widgets.codec import unpack_mask"}
        packed = base64.b64encode(zlib.compress(pack_mask(mask), 9)).decode()
        return f"unpack_mask(zlib.decompress(base64.b64decode({packed!r})), adata.n_obs)"


def arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the call of a result was given, from its provenance."""
    return dict(record.get("arguments") or {})


def is_plain(value: Any) -> bool:
    """Whether a value's own notation gives it again: numbers, texts, lists and dictionaries of them."""
    if isinstance(value, dict):
        return all(is_plain(item) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)


def exact_source(record: Mapping[str, Any]) -> str:
    """Give the source of a model with its resolved version, never only an alias."""
    source, version = str(record.get("source") or record["model"]), str(record.get("version") or "")
    return f"{REGISTRY}{version}" if source.startswith(REGISTRY) and "/" in version else source
