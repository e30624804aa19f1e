"""Lineage: what a version was made from, what was made from it, with which cells, by whom and when.

Tags are the index (``scfm.parent_digest``, ``scfm.data_digest``, ``scfm.by``, ``scfm.code``), and a version's record has the
rest. Edges lead from digest to digest, since a name and a number can be given again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_lab.results import Result, charts
from scfm_registry import names, version
from scfm_registry.reading import Reader

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from scfm_registry.made_with import MadeWith
    from scfm_registry.version import ModelVersion, Record, Versions

PARENT, DATA, BY, CODE, MADE, RUN = (
    f"scfm.{key}" for key in ("parent_digest", "data_digest", "by", "code", "made", "run")
)
#: No chain of versions is longer; one that is leads in circles, whatever its digests say.
_DEEPEST = 64


@dataclass(frozen=True)
class Node:
    """One version of a lineage, or a parent that is not here."""

    digest: str
    reference: str
    """``name/3``; empty where it is not here. The first of several names of the same files."""
    kind: str = "missing"
    family: str = ""
    aliases: tuple[str, ...] = ()
    trashed: bool = False
    depth: int = 0
    """Steps from the version that was asked for: below 0 before it, above 0 after it."""

    @property
    def label(self) -> str:
        """What people see."""
        if not self.reference:
            return f"{self.digest[:19]}… (not here)"
        return (
            self.reference
            + (f" ({', '.join(self.aliases)})" if self.aliases else "")
            + (" (in the trash)" if self.trashed else "")
        )


@dataclass(frozen=True)
class Edge:
    """How one version was made from another."""

    parent: str
    child: str
    data: str = ""
    """Digest of the cells."""
    code: str = ""
    by: str = ""
    when: str = ""
    run: str = ""
    """Id of the run in MLflow."""

    @property
    def label(self) -> str:
        """What people see."""
        data = f"cells {self.data.removeprefix('sha256:')[:12]}" if self.data else "cells not known"
        told = (data, self.code, f"by {self.by}" if self.by else "", self.when)
        return version.shown(", ".join(text for text in told if text), 300)


@dataclass(frozen=True, repr=False)
class Lineage(Result):
    """The graph around a version: where it comes from, and what came of it."""

    of: str
    """Digest of the version that was asked for."""
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def node(self, digest: str) -> Node:
        """The node of a digest."""
        return next(item for item in self.nodes if item.digest == digest)

    @property
    def ancestors(self) -> list[Node]:
        """What it was made from, nearest first."""
        return sorted((item for item in self.nodes if item.depth < 0), key=lambda item: -item.depth)

    @property
    def descendants(self) -> list[Node]:
        """What was made from it, nearest first."""
        return sorted((item for item in self.nodes if item.depth > 0), key=lambda item: item.depth)

    @property
    def table(self) -> pd.DataFrame:
        """One row per version: version, kind, digest, parent, data, code, by, when, run."""
        import pandas as pd

        made = {edge.child: edge for edge in self.edges}
        rows = []
        for item in sorted(self.nodes, key=lambda item: (item.depth, item.reference)):
            edge = made.get(item.digest, Edge("", ""))
            parent = self.node(edge.parent).reference or edge.parent if edge.parent else ""
            rows.append(
                {
                    "version": item.reference,
                    "kind": item.kind,
                    "depth": item.depth,
                    "digest": item.digest,
                    "parent": parent,
                    "data": edge.data,
                    "code": edge.code,
                    "by": edge.by,
                    "when": edge.when,
                    "run": edge.run,
                }
            )
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """The graph as a tree in text."""
        children: dict[str, list[Edge]] = {}
        for edge in self.edges:
            children.setdefault(edge.parent, []).append(edge)
        known = {edge.child for edge in self.edges}
        lines: list[str] = []

        def draw(digest: str, indent: str, edge: Edge | None) -> None:
            item = self.node(digest)
            mark = "  ◀" if digest == self.of else ""
            how = f"  [{edge.label}]" if edge else ""
            lines.append(f"{indent}{'└─ ' if edge else ''}{item.label}, {version.shown(item.kind)}{how}{mark}")
            for below in sorted(children.get(digest, []), key=lambda e: (e.when, e.child)):
                draw(below.child, indent + ("   " if edge else ""), below)

        for item in sorted(self.nodes, key=lambda item: (item.depth, item.reference)):
            if item.digest not in known:
                draw(item.digest, "", None)
        return "\n".join(lines)

    def plot(self) -> Any:
        """Versions from left to right in the order in which they were made from each other (Altair)."""
        import pandas as pd

        alt = charts()
        place = self._places()
        dots = pd.DataFrame(
            {"label": n.label, "kind": n.kind, "x": place[n.digest][0], "y": place[n.digest][1], "digest": n.digest}
            for n in self.nodes
        )
        lines = pd.DataFrame(
            [
                {
                    "x": place[e.parent][0],
                    "y": place[e.parent][1],
                    "x2": place[e.child][0],
                    "y2": place[e.child][1],
                    "how": e.label,
                }
                for e in self.edges
            ],
            columns=["x", "y", "x2", "y2", "how"],
        )
        axes = {"x": alt.X("x:Q", axis=None), "y": alt.Y("y:Q", axis=None)}
        rules = alt.Chart(lines).mark_rule(color="#999999").encode(**axes, x2="x2:Q", y2="y2:Q", tooltip="how")
        base = alt.Chart(dots).encode(**axes)
        points = base.mark_point(filled=True, size=160).encode(
            color=alt.Color("kind:N", title=None), tooltip=["label", "kind", "digest"]
        )
        return rules + points + base.mark_text(align="left", dx=10, dy=-10).encode(text="label")

    def _places(self) -> dict[str, tuple[int, int]]:
        rows: dict[int, int] = {}
        found = {}
        for item in sorted(self.nodes, key=lambda item: (item.depth, item.reference, item.digest)):
            found[item.digest] = (item.depth, rows.get(item.depth, 0))
            rows[item.depth] = rows.get(item.depth, 0) + 1
        return found

    def to_json(self) -> dict[str, Any]:
        """Nodes and edges as plain values."""
        return {
            "of": self.of,
            "nodes": [{**vars(item), "aliases": list(item.aliases)} for item in self.nodes],
            "edges": [vars(edge) for edge in self.edges],
            "summary": self.summary(),
        }


class Genealogist(Reader):
    """What tells where versions come from."""

    def lineage(self, reference: str) -> Lineage:
        """The versions that one was made from, and those made from it, as a graph.

        Parameters
        ----------
        reference
            ``name/3``, ``name@alias`` or ``name``.

        Raises
        ------
        ModelError
            The version is unknown, or what tags say of parents leads in a circle.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> print(Registry().lineage("starter/1").summary())
        starter/1 (champion), pretrained  ◀
        """
        found, record = self._find(names.parse(reference))
        nodes = {found.digest: _node([record], found.digest, 0)}
        edges: dict[tuple[str, str], Edge] = {}
        self._before(record, found.digest, nodes, edges)
        self._after(found.digest, nodes, edges)
        return Lineage(found.digest, tuple(nodes.values()), tuple(edges.values()))

    def children(self, reference: str) -> Versions:
        """The versions that were made from one directly; those in the trash are not among them."""
        found, _ = self._find(names.parse(reference))
        return version.Versions(self._read(self._store.records(tags={PARENT: found.digest})))

    def made_with(self, path: str | Path, reference: str | None = None) -> MadeWith:
        """What in files was made with versions of this registry, by the provenance that scfm-lab writes beside it.

        Parameters
        ----------
        path
            An ``.h5ad`` file, a Zarr folder, or a folder of such.
        reference
            Only what was made with this version.

        Raises
        ------
        DataError
            There is no such file.
        """
        from scfm_registry.made_with import made_with

        wanted = None if reference is None else self._find(names.parse(reference))[0]
        everything = self._store.records()
        known = [
            item
            for record in everything
            for item in (version.read(record) or version.read(record, trashed=True),)
            if item
        ]
        return made_with(Path(path).expanduser(), known, wanted)

    def _before(self, record: Record, digest: str, nodes: dict[str, Node], edges: dict[tuple[str, str], Edge]) -> None:
        seen = {digest}
        for depth in range(1, _DEEPEST + 2):
            parent = record.tags.get(PARENT, "")
            if not parent:
                return
            if parent in seen or depth > _DEEPEST:
                raise _circle(record)
            seen.add(parent)
            edges[parent, digest] = _edge(record, parent, digest)
            holders = self._store.records(tags={"scfm.digest": parent})
            nodes[parent] = _node(holders, parent, -depth)
            if not holders:
                return
            record, digest = _first(holders), parent

    def _after(self, digest: str, nodes: dict[str, Node], edges: dict[tuple[str, str], Edge]) -> None:
        waiting: list[tuple[str, int, tuple[str, ...]]] = [(digest, 0, (digest,))]
        while waiting:
            parent, depth, path = waiting.pop(0)
            by_digest: dict[str, list[Record]] = {}
            for record in self._store.records(tags={PARENT: parent}):
                if "scfm.digest" in record.tags:
                    by_digest.setdefault(record.tags["scfm.digest"], []).append(record)
            for child, holders in by_digest.items():
                first = _first(holders)
                if child in path or (child in nodes and nodes[child].depth < 0) or depth >= _DEEPEST:
                    raise _circle(first)
                edges[parent, child] = _edge(first, parent, child)
                if child not in nodes:
                    nodes[child] = _node(holders, child, depth + 1)
                    waiting.append((child, depth + 1, (*path, child)))


def check_made_from(registry: Reader, digest: str, parent: str) -> None:
    """Refuse as what a version was made from the version itself, and what was made from it.

    Parameters
    ----------
    registry
        Where it comes in.
    digest
        Of its files.
    parent
        Digest of what it is said to be made from; empty where nothing is said.

    Raises
    ------
    ModelError
        Its lineage would lead in a circle.
    """
    if not parent:
        return
    # By files alone: what holds the weights of its parent, with another card, was made from it all the same.
    before, waiting = {""}, [parent]
    while waiting:
        current = waiting.pop()
        if current not in before:
            before.add(current)
            holders = registry._store.records(tags={"scfm.digest": current})  # noqa: SLF001 - the registry's own parts
            waiting += [item.tags.get(PARENT, "") for item in holders]
    if digest in before:
        raise ModelError(
            f"These files ({digest}) are said to be made from {parent}, which is the same or was made from them: a lineage does "
            "not lead in a circle. Nothing was registered; name what they were made from."
        )


def children_of(records: Iterable[Record], digest: str) -> list[str]:
    """References of the versions, also those in the trash, that were made from the files of a digest."""
    return sorted(f"{record.name}/{record.version}" for record in records if record.tags.get(PARENT) == digest)


def _first(records: list[Record]) -> Record:
    return min(
        records, key=lambda record: (version.TRASHED in record.tags, record.created, record.name, record.version)
    )


def _node(records: list[Record], digest: str, depth: int) -> Node:
    found: list[ModelVersion] = []
    for record in sorted(records, key=lambda r: (version.TRASHED in r.tags, r.created, r.name, r.version)):
        item = version.read(record) or version.read(record, trashed=True)
        if item is not None:
            found.append(item)
    if not found:
        return Node(digest, "", depth=depth)
    first = found[0]
    return Node(digest, first.reference, first.kind, first.family, first.aliases, version.TRASHED in first.tags, depth)


def _edge(record: Record, parent: str, child: str) -> Edge:
    tags = record.tags
    when = tags.get(MADE) or record.created.isoformat(timespec="seconds")
    return Edge(parent, child, tags.get(DATA, ""), tags.get(CODE, ""), tags.get(BY, ""), when, tags.get(RUN, ""))


def _circle(record: Record) -> ModelError:
    return ModelError(
        f"The lineage of {record.name}/{record.version} leads in a circle, by its tag {PARENT}; somebody has changed that tag. "
        "Its record (finetuning.json among its files) has the parent's digest."
    )
