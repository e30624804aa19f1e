"""The picture that stands in a notebook's file beside a bench, and steps forward when no kernel answers any more.

JupyterLab and Notebook keep a widget's bytes nowhere: a notebook that is opened again shows nothing of it. So the bench is
shown as two outputs, a picture and the widget; the widget hides the picture for as long as it lives (``src/index.tsx``), and the
picture follows what the bench shows, with the code that brings it back below, and what was set on it for programs to read.
"""

from __future__ import annotations

import base64
import contextlib
import html
import itertools
import sys
import threading
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ScfmError
from scfm_widgets.cell import running_cell, shell
from scfm_widgets.picture import draw
from scfm_widgets.saved import MIME, saved_of
from scfm_widgets.session import sentence

if TYPE_CHECKING:
    from scfm_widgets.lab import Lab

#: Seconds for which nothing has changed before the picture is drawn again.
_RESTS = 1.5
#: Before the number of an output whose cell is not known, and most of these that are kept up to date.
_UNKNOWN, _MOST_UNKNOWN = "output ", 4
#: Most letters of code below a picture; only the masks of selections among millions of cells take more.
_MOST_LETTERS = 200_000


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
        #: By the cell that shows it: another run of it has replaced the former output.
        self._shown: dict[str, Any] = {}
        self._unknown = itertools.count()
        self._timer: threading.Timer | None = None
        self._writing = threading.Lock()
        self._picture: bytes | None = None
        self._stale = True
        self._written: dict[str, Any] | None = None

    def png(self) -> bytes | None:
        """What the bench shows, as PNG; ``None`` where it has no plane yet."""
        return draw(self._lab.session, self._lab.panel("column").column)

    def show(self, uid: str) -> bool:
        """Put a picture where a cell's output goes; False where there is no such place.

        Cells that have no plane yet get theirs once a model has run.

        Parameters
        ----------
        uid
            By which the widget in the page finds its own picture.
        """
        if not in_notebook():
            return False
        self._uid = uid
        if not self._shown:
            self._lab.observe(lambda _: self._later(stale=True), ["state", "_xy", "_data_version"])
            # These are not in the picture, but in the code below it.
            self._lab.observe(lambda _: self._later(), ["doses", "_selection", "_perturbation"])
        # The cells may have been changed by hand since it was shown last.
        self._stale, self._written = True, None
        cell = running_cell()[0]
        place = cell or f"{_UNKNOWN}{next(self._unknown)}"
        self._shown.pop(place, None)
        self._shown[place] = put_out(self._page(), display_id=True)
        for old in [place for place in self._shown if place.startswith(_UNKNOWN)][:-_MOST_UNKNOWN]:
            del self._shown[old]
        # The code may have to ask the registry, which takes its time at first: the bench does not wait for it.
        self._later()
        return True

    def close(self) -> None:
        """Draw no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._shown = {}

    @property
    def cells(self) -> set[str]:
        """Ids of the cells that show it."""
        return set(self._shown)

    def _later(self, *, stale: bool = False) -> None:
        self._stale |= stale
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(_RESTS, self._update)
        self._timer.daemon = True
        self._timer.start()

    def _update(self) -> None:
        if not self._shown:
            return
        # A picture that cannot be drawn leaves the last one standing. A timer that is cancelled may run already: the last
        # to write is the last to look.
        with self._writing, contextlib.suppress(ScfmError):
            page = self._page(*self._code())
            if page != self._written:
                self._written = page
                for shown in list(self._shown.values()):
                    shown.update(page, raw=True)

    def _code(self) -> tuple[str, str]:
        """What brings the bench back; where it cannot be told, or is too long for a notebook's file, why."""
        try:
            code = self._lab.code()
        # Whatever is in its way, the picture does without it; a timer has nobody else to tell.
        except Exception as error:  # noqa: BLE001
            return "", f"How to come back to this cannot be told. {sentence(error)}"
        if len(code) > _MOST_LETTERS:
            return (
                "",
                f"How to come back to this takes {len(code):,} letters, too many for a notebook: lab.code() gives it.",
            )
        return code, ""

    def _page(self, code: str = "", missing: str = "") -> dict[str, Any]:
        if self._stale:
            # First this: what changes while it is drawn makes it stale again.
            self._stale = False
            self._picture = self.png() or self._picture
        words = f"The bench as it was: {self._lab.adata.n_obs:,} cells. Run the cell to open it again."
        if self._picture is None:
            picture = '<p style="opacity:.7">No layout yet</p>'
        else:
            source = f"data:image/png;base64,{base64.b64encode(self._picture).decode()}"
            picture = f'<img alt="{words}" src="{source}" style="max-width:100%">'
        page = (
            f'<figure class="scfm-still" data-scfm-bench="{self._uid}" style="margin:0">'
            f"{picture}<figcaption>{words}{_details(code) if code else ''}{_missing(missing) if missing else ''}</figcaption></figure>"
        )
        return {"text/html": page, "text/plain": words, MIME: saved_of(self._lab)}


def _details(code: str) -> str:
    """Code that can be unfolded; names in it are other people's."""
    return (
        "<details><summary>How to come back to this</summary>"
        f'<pre style="max-height:24em;overflow:auto">{html.escape(code)}</pre></details>'
    )


def _missing(why: str) -> str:
    return f"<p>{html.escape(why)}</p>"


# A bench is asked to show itself as an output by IPython alone, which is loaded then; nothing else here needs it.


def in_notebook() -> bool:
    """Whether there is a cell whose output can be added to."""
    return shell() is not None


def put_out(data: dict[str, Any], metadata: Any = None, **more: Any) -> Any:
    """Put something where a cell's output goes, by its MIME types."""
    shown: Any = sys.modules["IPython.display"]
    return shown.display(data, metadata=metadata, raw=True, **more)
