"""One name for one cell type: labels of two studies brought to the same words, in a mapping that is shown and can be edited."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, did_you_mean
from scfm_lab.results import Result, charts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

ONTOLOGY = "cell_ontology"
"""Name of the Cell Ontology among the datasets."""


@dataclass(frozen=True, repr=False)
class LabelMap(Result):
    """What each label is called in common words.

    Examples
    --------
    >>> from scfm_lab.tasks.label_names import harmonise_labels
    >>> names = harmonise_labels(["B cells", "NK"], ["b cell", "natural killer cell"])
    >>> names["B cells"] == names["b cell"]
    True
    >>> names.edit({"NK": "natural killer cell"})["NK"]
    'natural killer cell'
    """

    table: pd.DataFrame
    """label, of (``reference``, ``query`` or both), name, term (Cell Ontology id or ""), how."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What made the mapping, as :meth:`write` keeps it."""
        from scfm_lab.cells import provenance

        return {
            "task": "harmonise_labels",
            "labels": len(self.table),
            "renamed": int((self.table["label"] != self.table["name"]).sum()),
            "packages": provenance.package_versions(),
        }

    def plot(self) -> Any:
        """Which label goes to which name, a square for each, coloured by how that was found (Altair)."""
        alt = charts()
        return (
            alt.Chart(self.table)
            .mark_rect()
            .encode(
                x=alt.X("name:N", sort=None, title="common name"),
                y=alt.Y("label:N", sort=None, title="label"),
                color=alt.Color("how:N", title=None),
                tooltip=list(self.table.columns),
            )
        )

    def __getitem__(self, label: str) -> str:
        return self.as_dict().get(str(label), str(label))

    def as_dict(self) -> dict[str, str]:
        """Label → name."""
        return dict(zip(self.table["label"], self.table["name"], strict=True))

    def edit(self, changes: Mapping[str, str]) -> LabelMap:
        """The mapping with some names changed by hand.

        Raises
        ------
        DataError
            If a label is in neither study.
        """
        table = self.table.copy()
        for label, name in changes.items():
            rows = table["label"] == str(label)
            if not rows.any():
                raise DataError(
                    f"harmonise names {label!r}, which is a label of neither the query nor the reference."
                    + did_you_mean(str(label), table["label"])
                )
            table.loc[rows, ["name", "how"]] = [str(name), "given"]
        return replace(self, table=table)

    def apply(self, labels: Iterable[Any]) -> NDArray[Any]:
        """Labels by their common names."""
        names = self.as_dict()
        return np.array([names.get(str(label), str(label)) for label in labels], dtype=object)

    def summary(self) -> str:
        """Which labels were renamed, how, and which stand alone."""
        changed = self.table[self.table["label"] != self.table["name"]]
        lines = [f"{len(self.table):,} labels, {len(changed):,} renamed:"]
        lines += [f"  {r.label} → {r.name_} ({r.how})" for r in changed.rename(columns={"name": "name_"}).itertuples()]
        sides = self.table.groupby("name")["of"].agg(
            lambda v: "both" if len(set(v)) > 1 or "both" in set(v) else v.iloc[0]
        )
        alone = sides[sides != "both"]
        if len(alone):
            lines.append("On one side only: " + ", ".join(f"{name} ({side})" for name, side in alone.items()) + ".")
        return "\n".join(lines)


def harmonise_labels(
    reference: Iterable[Any],
    query: Iterable[Any] = (),
    *,
    mapping: Mapping[str, str] | None = None,
    ontology: str | Path | None = None,
) -> LabelMap:
    """Bring the labels of a reference and a query to common names.

    Names that differ in case, punctuation or a plural only are taken for one. With an ontology, names and synonyms are looked
    up in it, and a finer term takes the name of a coarser one of the other study that it lies under.

    Parameters
    ----------
    reference, query
        Labels of both.
    mapping
        Label → name, decided by hand: wins over everything else.
    ontology
        Path of an ontology (OBO, OWL or OBO JSON), or ``"cell_ontology"``: the Cell Ontology, from the named datasets.

    Raises
    ------
    DataError
        If the ontology cannot be read, or the mapping names labels that are not there.
    """
    import pandas as pd

    here = {"reference": {str(v) for v in reference}, "query": {str(v) for v in query}}
    labels = sorted(here["reference"] | here["query"])
    of = [
        "both" if all(x in s for s in here.values()) else "reference" if x in here["reference"] else "query"
        for x in labels
    ]
    table = pd.DataFrame({"label": labels, "of": of, "name": labels, "term": "", "how": "as it is"})
    _by_spelling(table)
    if ontology is not None:
        _by_ontology(table, _Terms.open(ontology))
    return LabelMap(table).edit(mapping or {})


def folded(name: str) -> str:
    """A name without case, punctuation and plural: what people mean by it."""
    words = re.sub(r"[^0-9a-z+]+", " ", str(name).casefold()).split()
    return " ".join(w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words)


def _by_spelling(table: pd.DataFrame) -> None:
    """Labels that fold to the same name take that of the reference."""
    order = table["of"].map({"both": 0, "reference": 1, "query": 2})
    first: dict[str, str] = {}
    for i in order.sort_values(kind="stable").index:
        label = str(table.loc[i, "label"])
        name = first.setdefault(folded(label), label)
        if name != label:
            table.loc[i, ["name", "how"]] = [name, "same name"]


def _by_ontology(table: pd.DataFrame, terms: _Terms) -> None:
    found = {i: terms.find(str(table.loc[i, "label"])) for i in table.index}
    for i, term in found.items():
        if term is not None:
            table.loc[i, ["name", "term", "how"]] = [terms.name(term), term, f"{term}"]
    for i, term in found.items():
        if term is None or table.loc[i, "of"] == "both":
            continue
        other = "query" if table.loc[i, "of"] == "reference" else "reference"
        coarser = {t for j, t in found.items() if t is not None and table.loc[j, "of"] in (other, "both")}
        above = [t for t in terms.above(term) if t in coarser]
        if term not in coarser and above:
            table.loc[i, ["name", "how"]] = [terms.name(above[0]), f"{term} lies under {above[0]}"]


class _Terms:
    """Names, synonyms and ancestors of an ontology."""

    def __init__(self, ontology: Any) -> None:
        self._ontology = ontology
        self._by_name: dict[str, str] = {}
        terms = [t for t in ontology.terms() if not t.obsolete and t.name]
        for term in terms:
            self._by_name.setdefault(folded(term.name), term.id)
        for term in terms:
            for synonym in term.synonyms:
                if synonym.scope == "EXACT":
                    self._by_name.setdefault(folded(synonym.description), term.id)

    @classmethod
    def open(cls, source: str | Path) -> _Terms:
        import warnings

        import pronto

        if str(source) == ONTOLOGY:
            from scfm_lab.datasets import locate

            path = locate(ONTOLOGY)
        else:
            path = Path(source).expanduser()
        if not path.is_file():
            raise DataError(
                f"The ontology {source} is not there; give the path of an .obo, .owl or .json file, or {ONTOLOGY!r}."
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return cls(pronto.Ontology(str(path), import_depth=0))
        # pronto's parsers raise what they stumble over.
        except Exception as error:
            raise DataError(f"{path} cannot be read as an ontology ({' '.join(str(error).split())[:120]}).") from error

    def find(self, label: str) -> str | None:
        """Id of the term that a label names, with or without "cell"; the id itself will do."""
        if label in self._ontology:
            return label
        name = folded(label)
        for candidate in (name, f"{name} cell", name.removesuffix(" cell")):
            if candidate in self._by_name:
                return self._by_name[candidate]
        return None

    def name(self, term: str) -> str:
        return str(self._ontology[term].name)

    def above(self, term: str) -> list[str]:
        """Ancestors, nearest first."""
        return [t.id for t in self._ontology[term].superclasses(with_self=False)]


def own_labels(query: AnnData, labels_key: str) -> NDArray[Any] | None:
    """The query's own labels as text, None for a cell that has none; None where no cell has one."""
    if labels_key not in query.obs or query.obs[labels_key].isna().all():
        return None
    column = query.obs[labels_key]
    labels: NDArray[Any] = column.astype(str).to_numpy(dtype=object)
    labels[column.isna().to_numpy()] = None
    return labels


def labelled(labels: NDArray[Any] | None, n: int) -> NDArray[np.bool_]:
    """Which of `n` cells have one of :func:`own_labels`."""
    if labels is None:
        return np.zeros(n, dtype=bool)
    return np.array([label is not None for label in labels], dtype=bool)


def label_map(harmonise: Any, reference: Any, query: Any) -> LabelMap | None:
    """The mapping of label names that was asked for; None where names stay as they are."""
    if harmonise is False or harmonise is None:
        return None
    if isinstance(harmonise, LabelMap):
        return harmonise
    if harmonise is True:
        return harmonise_labels(reference, query)
    if hasattr(harmonise, "items"):
        return harmonise_labels(reference, query, mapping=harmonise)
    return harmonise_labels(reference, query, ontology=harmonise)
