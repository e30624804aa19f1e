"""The bench as Python: what a person would have to type to get what is on the screen."""

from __future__ import annotations

import base64
import inspect
import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_widgets.checked_state import legend_labels
from scfm_widgets.codec import pack_mask
from scfm_widgets.session import PRINCIPAL
from scfm_widgets.shelf import REGISTRY, made_in_python

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from scfm_widgets.lab import Lab

#: What :func:`scfm_lab.load_model` may have been asked for besides the source.
_ASKED = ("device", "precision", "config", "files")
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
        #: What is known of each key that scfm-lab wrote, and how the vectors at a key came about in the lines so far.
        self.records: dict[str, Any] = dict(lab.adata.uns.get("scfm", {}))
        self.made: dict[str, str] = {}

    def text(self) -> str:
        lab = self.lab
        needed = {key: dict(self.records[key]) for key in self._needed() if key in self.records}
        planes = {key: record for key, record in needed.items() if record.get("task") == "layout"}
        # A plane whose vectors were written anew since is of the former ones, so that it comes before the others.
        former = {key: record for key, record in planes.items() if self._is_former(record)}
        self._planes(former)
        for task in ("embed", "compare"):
            if task in lab.results:
                getattr(self, f"_{task}")(lab.results[task])
        for key, record in needed.items():
            if key not in planes:
                self._vectors(key, record)
        self._planes({key: record for key, record in planes.items() if key not in former})
        for task in ("trajectory", "perturb", "screen", "gene_attention", "similar_genes"):
            if task in lab.results:
                getattr(self, f"_{task}")(lab.results[task])
        self._bench()
        head = [*sorted(self.imports, key=lambda line: (line.startswith("from"), line)), ""]
        about = (
            f"# adata: the {lab.adata.n_obs:,} cells × {lab.adata.n_vars:,} genes of this bench, as they were loaded"
        )
        return "\n".join([*head, about, *self.lines]) + "\n"

    # ------------------------------------------------------------------------ vectors and planes

    def _needed(self) -> list[str]:
        """Keys of ``obsm`` that the results are of and that are shown."""
        lab = self.lab
        keys = [lab.state["layout"], (lab.state["second"] or "").removeprefix(PRINCIPAL)]
        for task in ("trajectory", "perturb"):
            result: Any = lab.results.get(task)
            if result is not None:
                keys += [result.provenance.get("use_rep"), result.layout.basis]
        return list(dict.fromkeys(str(key) for key in keys if key in lab.adata.obsm))

    def _is_former(self, plane: Mapping[str, Any]) -> bool:
        """Whether the vectors that a plane was made of are no longer those at their key."""
        key = str(plane["of"])
        now = dict(self.records.get(key, {}))
        if not plane.get("model") or now.get("task", "embed") != "embed":
            return False
        return not now or made_as(key, plane) != made_as(key, now)

    def _came_along(self, key: str) -> bool:
        """Whether what is at a key was there when the bench was opened: the cells may have been loaded with it."""
        found = self.lab.session.found.get(key)
        return found is not None and found is self.records.get(key)

    def _vectors(self, key: str, record: Mapping[str, Any]) -> None:
        """Vectors that a plane or a result needs, where no earlier line writes them."""
        now = dict(self.records.get(key, {}))
        if now.get("task", "embed") != "embed":
            self.lines.append(f"# obsm[{key!r}] came from {now['task']}, which is not repeated here.")
            return
        made = made_as(key, record)
        if self.made.get(key) == made:
            return
        if self._came_along(key) and made == made_as(key, now):
            self._unless_there(key, made)
        else:
            said, remarks = embedding(key, record, self._model(record))
            self.lines += [*remarks, said]
        self.made[key] = made

    def _planes(self, planes: Mapping[str, Mapping[str, Any]]) -> None:
        """Layouts that were made on the bench."""
        for key, record in planes.items():
            of = str(record["of"])
            self.imports.add("from scfm_lab.tasks.layout import umap_plane, write_plane")
            plane = f"umap_plane(adata.obsm[{of!r}], seed={int(record['seed'])})"
            written = f"write_plane(adata, {of!r}, {plane}, key_added={key!r})"
            if self._came_along(key):
                made = made_as(of, record) if record.get("model") else None
                self._unless_there(key, *([made] if made and self.made.get(of) != made else []), written)
                continue
            if record.get("model"):
                self._vectors(of, record)
            self.lines.append(written)

    def _unless_there(self, key: str, *lines: str) -> None:
        """Lines that cells which came with a key do not need."""
        self.lines += [f"if {key!r} not in adata.obsm:", *(f"    {line}" for line in lines)]

    # ------------------------------------------------------------------------------------- results

    def _model(self, record: Mapping[str, Any]) -> str:
        """Give the variable of an opened model, by its resolved version."""
        how = opened(record)
        if how not in self.models:
            name = "model" if not self.models else f"model_{len(self.models) + 1}"
            self.models[how] = name
            if how == _plainly(exact_source(record)):
                self.sources.setdefault(exact_source(record), name)
            if is_lost(record):
                weights = str(record.get("weights_sha256") or "").removeprefix("sha256:")[:12]
                self.lines.append(
                    f"# {name}: the {record['model']} that was made in Python{f' (weights {weights}…)' if weights else ''}. How "
                    f"cannot be written down here: call it {name} before you run this."
                )
            else:
                self.lines.append(f"{name} = {how}")
        return self.models[how]

    def _given(self, source: str | None) -> str | None:
        """Give the variable of a model that was handed in opened, where its source alone does not open it again."""
        model = self.lab.session.shelf.given(source) if source else None
        if model is None:
            return None
        from scfm_lab.cells.provenance import of_model

        record = of_model(model)
        return None if opened(record) == _plainly(exact_source(record)) else self._model(record)

    def _call(self, variable: str, function: Callable[..., Any], first: str, /, **given: Any) -> None:
        """Write a call with what differs from the function's defaults, which may be called anything (``target=``)."""
        said, remarks = call(function, first, **given)
        self.lines += [*remarks, f"{variable} = {said}"]

    def _embed(self, result: Any) -> None:
        import scfm_lab as sl

        model = self._model(result.provenance)
        self._call("embedding", sl.embed, f"adata, {model}", key_added=result.key, **arguments(result.provenance))
        self.made[result.key] = made_as(result.key, result.provenance)
        self.shown["embed"] = "embedding"

    def _compare(self, result: Any) -> None:
        from scfm_lab.tasks.compare import compare

        self.imports.add("from scfm_lab.tasks.compare import compare")
        a, b = (self._model(record) for record in result.provenance["of"])
        given = {"groupby": result.groupby, "key_added": tuple(result.keys), **arguments(result.provenance)}
        self._call("comparison", compare, f"adata, {a}, {b}", **given)
        for key, record in zip(result.keys, result.provenance["of"], strict=True):
            self.made[key] = made_as(key, record)
        self.shown["compare"] = "comparison"

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
        if told.get("reference_given"):
            self.lines.append("# The perturbation was told against a reference (reference=); it is not repeated here.")
            return
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

    # What the Genes panel has computed is shown there when it is asked for: it is repeated, and not set on the bench.

    def _gene_attention(self, result: Any) -> None:
        from scfm_lab.tasks.gene_attention import gene_attention

        self.imports.add("from scfm_lab.tasks.gene_attention import gene_attention")
        told = result.provenance
        model = self._model(told)
        self._call("attention", gene_attention, f"adata, {model}, {result.gene!r}", **arguments(told))

    def _similar_genes(self, result: Any) -> None:
        import scfm_lab as sl

        told = result.provenance
        model = self._model(told)
        cells = ", adata=adata" if "detection" in result.table else ""
        self._call("similar", sl.similar_genes, f"{model}, {result.gene!r}{cells}", **arguments(told))

    # --------------------------------------------------------------------------------------- bench

    def _bench(self) -> None:
        lab = self.lab
        state = {key: value for key, value in lab.state.items() if key != "panel" or value is not None}
        picked = state.pop("model")
        source, given = self._pinned(picked), self._given(picked)
        state["against"] = self._pinned(state["against"])
        title = f", title={lab.title!r}" if lab.title != "scfm-lab" else ""
        model = given or self.sources.get(source or "", repr(source))
        self.lines += ["", f"lab = Lab(adata, model={model}{title})"]
        newest = lab.session.newest
        for task in sorted(self.shown, key=lambda task: task == newest):
            self.lines.append(f"lab.result = {self.shown[task]}")
        # A result chooses colours and a plane of its own; what the person chose comes after.
        labels = legend_labels(state["colour"], lab.session)
        if labels is not None:
            # What was hidden of groups that are not there any more hides nothing.
            state["hidden"] = [name for name in state["hidden"] if name in labels]
        self.lines.append(f"lab.state = {state!r}")
        rest = {gene: float(dose) for gene, dose in lab.doses.items()}
        shown: Any = lab.results.get("perturb")
        if rest and ("perturb" not in self.shown or rest != {gene: float(dose) for gene, dose in shown.doses.items()}):
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


def call(function: Callable[..., Any], first: str, /, **given: Any) -> tuple[str, list[str]]:
    """Give a call with what differs from the function's defaults, and remarks on what cannot be written down."""
    import scfm_lab as sl

    name_of = function.__name__
    called = f"sl.{name_of}" if name_of in sl.__all__ else name_of
    known = inspect.signature(function).parameters
    said, remarks = [], []
    for name, value in given.items():
        if name not in known or value == known[name].default or value is None:
            continue
        if is_plain(value):
            said.append(f"{name}={value!r}")
        else:
            remarks.append(f"# {name} was a {type(value).__name__}, which cannot be written down here")
    return f"{', '.join([f'{called}({first}', *said])})", remarks


def embedding(key: str, record: Mapping[str, Any], model: str) -> tuple[str, list[str]]:
    """Give the call that writes vectors as their record, or that of their plane, tells; and remarks."""
    import scfm_lab as sl

    return call(sl.embed, f"adata, {model}", key_added=key, **arguments(record))


def made_as(key: str, record: Mapping[str, Any]) -> str:
    """What tells vectors at a key from others that were there before: their model and what they were asked with."""
    return embedding(key, record, opened(record))[0]


def arguments(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the call of a result was given, from its provenance."""
    return dict(as_plain(record.get("arguments") or {}))


def opened(record: Mapping[str, Any]) -> str:
    """How the model of a record is opened; of one that was made in Python, what tells it from others."""
    if is_lost(record):
        return f"{record['model']} made in Python {record.get('weights_sha256')} {record.get('settings_sha256')}"
    source, told = exact_source(record), _asked(record)
    given = [f", {name}={told[name]!r}" for name in _ASKED if told.get(name) and is_plain(told[name])]
    return f"sl.load_model({source!r}{''.join(given)})"


def opens_anew(record: Mapping[str, Any]) -> bool:
    """Whether the source of a record alone opens a model that answers as the one that made it."""
    told = _asked(record)
    return not (is_lost(record) or told.get("config") or told.get("files"))


def _asked(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a model was opened with besides its source; records of older versions tell the configuration alone."""
    asked = record.get("asked")
    told: dict[str, Any] = json.loads(str(asked)) if asked else {"config": as_plain(record.get("config") or {})}
    return told


def is_lost(record: Mapping[str, Any]) -> bool:
    """Whether nothing opens the model of a record again: it was fitted, fine-tuned or put together in Python."""
    return made_in_python(str(record.get("source") or ""))


def _plainly(source: str) -> str:
    return f"sl.load_model({source!r})"


def as_plain(value: Any) -> Any:
    """A value of a record that was read from a file: numpy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {as_plain(key): as_plain(item) for key, item in value.items()}
    return value.item() if isinstance(value, np.generic) else value


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
