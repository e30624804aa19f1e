"""The Models panel: what the registry holds, and what of it runs here."""

from __future__ import annotations

import textwrap
import warnings
from typing import TYPE_CHECKING, Any

from scfm_lab import plugins
from scfm_lab.errors import ScfmError
from scfm_widgets.panels import Panel

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
    answers = ("models",)

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.refresh()

    def handle(self, message: dict[str, Any]) -> Any:
        """Read the registry again."""
        del message
        return self.refresh()

    def refresh(self) -> Future[Any]:
        """Read the registry beside the notebook, and publish what it holds."""
        self.session.publish(_models={"status": "loading", "rows": [], "note": ""})
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
        self.session.publish(
            _models={"status": "ready", "rows": rows, "note": " ".join(notes)}, _hardware=hardware.describe()
        )
        return {"rows": rows}


def _registered(hardware: Hardware) -> list[dict[str, Any]]:
    from scfm_registry import Registry

    families = {item.id for item in plugins.discover().contributions("models")}
    return [_row(item, hardware, families) for item in Registry().search()]


def _row(item: ModelVersion, hardware: Hardware, families: set[str]) -> dict[str, Any]:
    from scfm_lab.inference.hardware import fits
    from scfm_registry.searching import needs

    fit = fits(needs(item, hardware.device), hardware)
    blocked = None
    if item.family not in families:
        blocked = f"Needs the plugin that brings the family '{item.family}', which is not installed."
    elif not fit:
        blocked = f"Does not fit: {fit.reason}."
    return {
        "source": item.uri if not item.aliases else f"models:/{item.name}@{item.aliases[0]}",
        "name": item.name,
        "version": str(item.version),
        "aliases": list(item.aliases),
        "family": item.family,
        "kind": item.kind,
        "licence": item.licence or None,
        "commercial": item.commercial,
        "parameters": item.parameters,
        "tags": _hardware_tags(item),
        "fit": {"verdict": fit.verdict, "reason": fit.reason, "source": fit.source},
        "abilities": sorted(item.abilities),
        "description": _beginning(item.card),
        "blocked": blocked,
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
        }
        for item in plugins.discover().contributions("models")
    ]
