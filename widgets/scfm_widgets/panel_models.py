"""The Models panel: what the registry holds, and what of it runs here."""

from __future__ import annotations

import os
import textwrap
import warnings
from typing import TYPE_CHECKING, Any

from scfm_lab import plugins
from scfm_lab.errors import Cancelled, ScfmError
from scfm_widgets.codec import plain
from scfm_widgets.panels import Panel
from scfm_widgets.shelf import is_moving
from scfm_widgets.worker import abandonable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from threading import Event

    from scfm_lab.inference.hardware import Hardware
    from scfm_registry.version import ModelVersion
    from scfm_widgets.session import Session


#: Most letters of a model's card that stand in the list.
_MOST_LETTERS = 150


class ModelsPanel(Panel):
    """Lists models; which one is picked is in the bench's state."""

    title = "Models"
    component = "models"
    answers = ("models", "card", "lineage", "scores", "import")

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.session.publish(_models={"status": "loading", "rows": [], "note": ""})
        self.refresh()

    def handle(self, message: dict[str, Any]) -> Any:
        """Read the registry again (``models``), give a ``card``, a ``lineage`` or ``scores``, or ``import`` a folder."""
        kind = message["type"]
        if kind == "models":
            return self.refresh()
        if kind == "import":
            return self._import(str(message["path"]), str(message["name"]))
        reference = str(message["reference"])
        tell = {"card": _card, "lineage": _lineage, "scores": _scores}[kind]
        return self.session.submit(kind, lambda *_: tell(reference), lane=kind, aside=True)

    def _import(self, path: str, name: str) -> Future[Any]:
        """Import a checkpoint's folder into the registry, then list it."""

        def work(progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
            from scfm_registry import Registry

            progress(0, 0, "reading the files in a process without network")
            # It stops by itself at the end of a file, or once they have been read; nobody need wait for that.
            try:
                version = abandonable(
                    lambda: Registry().import_checkpoint(
                        path,
                        name,
                        progress=lambda done, total, *_: progress(done, total, "downloading", unit="MiB"),
                        cancel=cancel,
                    ),
                    cancel,
                )
            except Cancelled:
                self.refresh()
                message = "Stopped. If its files had been read already it is registered, and in the list above."
                raise Cancelled(message) from None
            self.refresh()
            progress(0, 0, f"It is {version.reference} now")
            return {"reference": version.reference}

        return self.session.submit("import", work, label=f"Importing {name}", lane="import", of="")

    def refresh(self) -> Future[Any]:
        """Read the registry beside the notebook, and publish what it holds; what was read before stands until then."""
        return self.session.submit("models", self._read, lane="models", aside=True)

    def _read(self, progress: Callable[..., None], cancel: Event) -> dict[str, Any]:
        del progress, cancel
        from scfm_lab.inference.hardware import Hardware

        hardware = Hardware.detect()
        notes = []
        try:
            # What the registry wants to tell (a built-in model that could not be registered) is told here, not on a console.
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always", RuntimeWarning)
                rows = _registered(hardware)
            notes += [str(item.message) for item in told if item.category is RuntimeWarning]
        except ScfmError as error:
            # Without a registry the bench still works with the models that come with plugins.
            self.session.fail(error, "models")
            rows = _contributed()
            notes.append("The registry cannot be read; these are the models that plugins bring.")
        picked = str(self.session.state.get("model") or "")
        for row in rows:
            # What the list says of the picked model from now on is what runs.
            if picked in row["sources"] and row["reference"] and is_moving(picked):
                self.session.shelf.mean(picked, row["reference"])
        notes += self.session.shelf.as_picked(rows)
        self.session.listed = rows
        self.session.publish(
            _models={"status": "ready", "rows": rows, "note": " ".join(notes)}, _hardware=hardware.describe()
        )
        return {"rows": rows}


def _registered(hardware: Hardware) -> list[dict[str, Any]]:
    from scfm_registry import Registry

    families = {item.id for item in plugins.discover().contributions("models")}
    registry = Registry()
    versions = list(registry.search(all_versions=True))
    whys = registry.why_each_retracted(versions)
    rows = [_row(item, hardware, families, why) for item, why in zip(versions, whys, strict=True)]
    for names in _bare_names().values():
        same = [row for row in rows if row["name"] in names]
        if same:
            # A bare name opens what comes with its plugin, which is the first version: later ones were registered by people.
            min(same, key=lambda row: int(row["version"]))["sources"] += names
    return [*rows, *(_published(item) for item in registry.catalog() if not item.here)]


def _bare_names() -> dict[str, list[str]]:
    """By id, the names under which a model that comes with its plugin is opened."""
    found = [item for item in plugins.discover().contributions("models") if not item.data.get("needs_files")]
    return {item.id: list(dict.fromkeys([item.id, item.id.split(".", 1)[-1]])) for item in found}


def _published(item: Any) -> dict[str, Any]:
    """A checkpoint that its authors publish and that is not known to be here, as a greyed row."""
    return {
        "source": f"published:{item.id}",
        "sources": [f"published:{item.id}"],
        "reference": None,
        "name": item.id,
        "version": None,
        "aliases": [],
        "family": item.family,
        "kind": "pretrained",
        "licence": item.licence or None,
        "commercial": item.commercial,
        "parameters": item.parameters,
        "tags": list(item.organisms),
        "fit": {"verdict": "unknown", "reason": "", "source": ""},
        "abilities": [],
        "description": f"{item.title}: {item.trained_on}." if item.trained_on else item.title,
        "blocked": f"{_whether_here(item)} {_how_to_get(item)}",
        "created": "",
    }


def _whether_here(item: Any) -> str:
    if item.here is None:
        return "Whether it is here is not known: no SHA-256 of it is published to compare with."
    return "Not here."


def _how_to_get(item: Any) -> str:
    if item.get:
        return f"Import it below by its name, {item.id}, in place of a folder."
    return f"Get its folder ({', '.join(item.files)}) from {item.where} and import it below."


def _card(reference: str) -> dict[str, Any]:
    from scfm_registry import Registry

    return {"card": Registry().card(reference)}


def _lineage(reference: str) -> dict[str, Any]:
    """Where a version comes from and what came of it: nodes and edges to be drawn."""
    from scfm_registry import Registry

    found = Registry().lineage(reference)
    made = {edge.child: edge for edge in found.edges}

    def detail(node: Any) -> str:
        edge = made.get(node.digest)
        return f"{node.kind}; {edge.label}" if edge else str(node.kind)

    nodes = [
        {
            "id": node.digest,
            "label": node.label,
            "detail": detail(node),
            "own": node.digest == found.of,
        }
        for node in found.nodes
    ]
    return {"nodes": nodes, "edges": [{"from": edge.parent, "to": edge.child} for edge in found.edges]}


def _scores(reference: str) -> dict[str, Any]:
    """What a version reached in evaluations, the newest of each on the same cells, beside the best parameter-free method."""
    from scfm_registry import Registry
    from scfm_registry.scores import lead

    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in Registry().scores(reference):
        newest.pop(key := (str(row["metric"]), str(row["data_digest"])), None)
        newest[key] = row
    told = ("metric", "value", "low", "high", "floor", "floor_name", "n", "data_digest")
    rows = []
    for row in reversed(newest.values()):
        above = None if row.get("floor") is None else lead(row) > 0
        rows.append(plain({**{name: row.get(name) for name in told}, "above": above}))
    return {"rows": rows}


def _row(item: ModelVersion, hardware: Hardware, families: set[str], retracted: str) -> dict[str, Any]:
    from scfm_lab.inference.hardware import fits
    from scfm_registry.retracting import VARIABLE
    from scfm_registry.searching import needs

    fit = fits(needs(item, hardware.device), hardware)
    blocked = None
    # Whoever has said in so many words that retracted versions may be opened can pick them, and is warned.
    if retracted and os.environ.get(VARIABLE) != "1":
        blocked = f"Retracted: {retracted}."
    elif item.family not in families:
        blocked = f"Needs the plugin that brings the family '{item.family}', which is not installed."
    elif not fit:
        blocked = f"Does not fit: {fit.reason}."
    return {
        # By its number: an alias may mean another version tomorrow.
        "source": item.uri,
        # Whatever it may have been picked by: it bears several aliases, or none.
        "sources": [item.uri, *(f"models:/{item.name}@{alias}" for alias in item.aliases)],
        "name": item.name,
        "version": str(item.version),
        "aliases": list(item.aliases),
        "family": item.family,
        "kind": item.kind,
        "licence": item.licence or None,
        "commercial": item.commercial,
        "parameters": item.parameters,
        "tags": [*(["retracted"] if retracted else []), *_hardware_tags(item)],
        "fit": {"verdict": fit.verdict, "reason": fit.reason, "source": fit.source},
        "abilities": sorted(item.abilities),
        "description": _beginning(item.card),
        "blocked": blocked,
        "reference": item.reference,
        "created": item.created.date().isoformat(),
    }


def _hardware_tags(item: ModelVersion) -> list[str]:
    """Devices on which a version has been run, and how fast, as few words."""
    tags = []
    for device in ("cpu", "cuda", "mps"):
        state = item.hardware.get(f"device.{device}", "")
        if state == "verified":
            tags.append(f"{device.upper()} verified")
        elif state == "declared":
            tags.append(device.upper())
        speed = item.hardware.get(f"speed.{device}.best_cpm")
        if speed:
            tags.append(f"{int(float(speed)):,} cells/min on {device.upper()}")
    return tags


def _beginning(card: str) -> str:
    """The beginning of a model's card, as plain text: its first paragraph of prose."""
    for paragraph in card.split("\n\n"):
        text = " ".join(line.strip() for line in paragraph.splitlines())
        if text and not text.startswith(("#", "---", "|", "-", "<", ">", "```")):
            return textwrap.shorten(text.replace("**", "").replace("`", ""), _MOST_LETTERS, placeholder=" …")
    return ""


def _contributed() -> list[dict[str, Any]]:
    """Models straight from the plugins' manifests."""
    return [
        {
            "source": item.name if item.plugin == "scfm" else item.id,
            "sources": [item.name, item.id],
            "name": item.name,
            "version": None,
            "aliases": [],
            "family": item.id,
            "kind": "baseline" if item.data.get("parameter_free") else "pretrained",
            "licence": item.data.get("licence"),
            "commercial": item.data.get("commercial"),
            "parameters": item.data.get("parameters"),
            "tags": [],
            "fit": {"verdict": "unknown", "reason": "", "source": ""},
            "abilities": list(item.data.get("tasks", [])),
            "description": str(item.data.get("description", "")),
            "blocked": "Its weights do not come with the plugin." if item.data.get("needs_files") else None,
            "reference": None,
            "created": "",
        }
        for item in plugins.discover().contributions("models")
    ]
