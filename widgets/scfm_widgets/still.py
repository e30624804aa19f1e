"""The picture that stands in a notebook's file beside a bench, and steps forward when no kernel answers any more.

JupyterLab and Notebook keep a widget's bytes nowhere: a notebook that is opened again shows nothing of it. So the bench is
shown as two outputs, a picture and the widget; the widget hides the picture for as long as it lives (``src/index.tsx``), and the
picture follows what the bench shows.
"""

from __future__ import annotations

import base64
import contextlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ScfmError
from scfm_widgets.picture import draw

if TYPE_CHECKING:
    from scfm_widgets.lab import Lab

#: Seconds for which nothing has changed before the picture is drawn again.
_RESTS = 1.5


class Still:
    """The pictures of one bench in the notebook.

    Parameters
    ----------
    lab
        The bench.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._uid = ""
        self._shown: list[Any] = []
        self._timer: threading.Timer | None = None

    def png(self) -> bytes | None:
        """What the bench shows, as PNG; ``None`` where it has no plane yet."""
        return draw(self._lab.session, self._lab.panel("column").column)

    def show(self, uid: str) -> bool:
        """Put a picture where a cell's output goes; False where there is no such place, or no plane yet.

        Parameters
        ----------
        uid
            By which the widget in the page finds its own picture.
        """
        if not in_notebook():
            return False
        self._uid = uid
        page = self._page()
        if page is None:
            return False
        if not self._shown:
            self._lab.observe(lambda _: self._later(), ["state", "_xy", "_data_version"])
        self._shown.append(put_out(page, display_id=True))
        return True

    def close(self) -> None:
        """Draw no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._shown = []

    def _later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(_RESTS, self._update)
        self._timer.daemon = True
        self._timer.start()

    def _update(self) -> None:
        # A picture that cannot be drawn leaves the last one standing.
        with contextlib.suppress(ScfmError):
            page = self._page() if self._shown else None
            for shown in self._shown if page is not None else []:
                shown.update(page, raw=True)

    def _page(self) -> dict[str, str] | None:
        picture = self.png()
        if picture is None:
            return None
        words = f"The bench as it was: {self._lab.adata.n_obs:,} cells. Run the cell to open it again."
        source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        page = (
            f'<figure class="scfm-still" data-scfm-bench="{self._uid}" style="margin:0">'
            f'<img alt="{words}" src="{source}" style="max-width:100%"><figcaption>{words}</figcaption></figure>'
        )
        return {"text/html": page, "text/plain": words}


# A bench is asked to show itself as an output by IPython alone, which is loaded then; nothing else here needs it.


def in_notebook() -> bool:
    """Whether there is a cell whose output can be added to."""
    ipython: Any = sys.modules.get("IPython")
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def put_out(data: dict[str, Any], metadata: Any = None, **more: Any) -> Any:
    """Put something where a cell's output goes, by its MIME types."""
    shown: Any = sys.modules["IPython.display"]
    return shown.display(data, metadata=metadata, raw=True, **more)
