"""Messages from the browser: brought to the panel that answers them, and every answer or refusal sent back."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import Cancelled, PluginError
from scfm_widgets.session import ASKER, sentence

if TYPE_CHECKING:
    from scfm_widgets.lab import Lab
    from scfm_widgets.panels import PanelRow

#: Messages whose refusal is told where the question was asked, and not above everything else.
_SMALL = {"column", "cell", "known", "genes", "dismiss"}
#: Messages that say nothing of the cells.
_OF_NO_CELLS = {"pulse", "tour", "dismiss", "cancel"}
#: Messages that come many times a second, or are looked at where they are taken.
_AT_ONCE = {"state", "selection", "cell"}


class Messages:
    """The way of a bench's messages.

    Parameters
    ----------
    lab
        The bench.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def take(self, _: Any, content: dict[str, Any], __: Any) -> None:
        """Take a message; its answer is sent when it is there."""
        request, kind = content.get("id"), str(content.get("type"))
        asker = ASKER.set(str(content.get("view") or ""))
        try:
            answer = self._route(kind, content)
        # Whatever a panel raises, its own or a plugin's, is told in words; the bench goes on.
        except Exception as error:  # noqa: BLE001
            self._refuse(request, kind, error)
            return
        finally:
            ASKER.reset(asker)
        if isinstance(answer, Future):
            answer.add_done_callback(lambda done: self._settle(request, kind, done))
        else:
            self._reply(request, answer)

    def _route(self, kind: str, content: dict[str, Any]) -> Any:
        if kind not in _OF_NO_CELLS:
            if kind not in _AT_ONCE and content.get("commit", True):
                # The answer is about the cells as they are now, and so is all that stands beside it.
                self._lab.look_again()
            else:
                self._lab.session.check_cells()
        if kind == "dismiss":
            self._lab.session.dismiss(content.get("fault"))
            return {}
        if kind == "state":
            self._lab.take_state(content["change"])
            return {}
        if kind == "selection":
            self._lab.take_selection(content["bits"])
            return {}
        if kind != "panel":
            return self._lab.panel(kind).handle(content)
        row: PanelRow | None = next((row for row in self._lab.rows if row.id == content.get("panel")), None)
        if row is None or row.panel is None:
            message = f"This bench has no panel '{content.get('panel')}'."
            raise PluginError(message)
        handle = getattr(row.panel, "handle", None)
        if handle is None:
            message = f"The panel '{row.title}' does not answer messages."
            raise PluginError(message)
        return handle(content["message"])

    def _settle(self, request: Any, kind: str, future: Future[Any]) -> None:
        try:
            self._reply(request, future.result(timeout=0))
        except (CancelledError, Cancelled):
            self._reply(request, {"cancelled": True})
        # It was raised in a panel's job; see above.
        except Exception as error:  # noqa: BLE001
            self._refuse(request, kind, error)

    def _refuse(self, request: Any, kind: str, error: BaseException) -> None:
        text = sentence(error) if kind in _SMALL else self._lab.session.fail(error, kind)
        self._reply(request, {"error": text})

    def _reply(self, request: Any, answer: Any) -> None:
        content, buffers = answer if isinstance(answer, tuple) else (answer, [])
        with self._lab.lock:
            self._lab.send({**(content or {}), "id": request}, list(buffers))
