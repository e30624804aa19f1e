"""What a person takes along from the bench: code, a paragraph of methods, a page; and whether the first hints were seen."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ScfmError
from scfm_widgets.worker import abandonable

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from threading import Event

    from scfm_widgets.lab import Lab

#: In the user's data directory: what the bench remembers of its user.
_MEMORY = "bench.json"


class Desk:
    """Answers what concerns the bench as a whole.

    Parameters
    ----------
    lab
        The bench.
    """

    answers = ("code", "methods", "html", "tour", "pulse")

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer ``code``, ``methods``, ``html``, ``tour``, or ``pulse``: whether anybody is there."""
        kind = message["type"]
        if kind == "pulse":
            return {}
        if kind == "tour":
            self.tour_seen()
            return {}
        if kind == "html":
            return self._page([str(gene) for gene in message.get("genes", [])])
        if kind == "code":
            return {"text": self._lab.code()}
        from scfm_widgets.methods import methods_of

        text, bibtex = methods_of(self._lab)
        return {"text": text, "bibtex": bibtex}

    def wants_tour(self) -> bool:
        """Whether nobody has seen the hints yet; where that cannot be known they are not shown."""
        from scfm_lab.home import data_home

        try:
            path = data_home() / _MEMORY
            return not (path.exists() and json.loads(path.read_text(encoding="utf-8")).get("tour") == "seen")
        except (OSError, ValueError, AttributeError, ScfmError):
            return False

    def tour_seen(self) -> None:
        """Never show the hints again."""
        from scfm_lab.home import data_home

        # Where it cannot be kept the hints come once more; that is no reason to trouble anybody.
        with suppress(OSError, ScfmError):
            (data_home() / _MEMORY).write_text(json.dumps({"tour": "seen"}), encoding="utf-8")

    def _page(self, genes: list[str]) -> Future[Any]:
        lab = self._lab

        def work(progress: Callable[..., None], cancel: Event) -> Any:
            from scfm_widgets.export import page, payload_of

            progress(0, 0, "collecting what goes along")
            payload = payload_of(lab, genes=genes, wait=False, cancel=cancel)
            progress(0, 0, "packing it")
            text = abandonable(lambda: page(payload, title=lab.title).encode(), cancel)
            progress(0, 0, f"{len(text) / 1e6:.1f} MB")
            return {"left_out": [*payload.left_out, *payload.kernel_only], "bytes": len(text)}, [text]

        return lab.session.submit("page", work, label="Making the page", lane="page", of="")
