"""Panels of the bench: how one is written, and how all of them are opened.

A panel is contributed through a plugin's manifest (``[[panels]]`` with ``id``, ``title`` and ``factory``). Its factory is
called with the session and returns an object with a ``title`` and, in one of two ways, a face in the browser:

* ``esm``: an ES module, as text or as a path, that exports ``render({ model, session, el })``. This is what third-party
  panels use. ``css`` may hold a style sheet beside it.
* ``component``: the name of a panel that is part of the bench's own bundle. Only scfm-lab's own panels use it.

What the panel's face sends reaches :meth:`Panel.handle`, and what that returns goes back. ``docs/panels.md`` is the page
for authors. A panel that fails to open, whatever it does, becomes one row that says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab import plugins
from scfm_lab.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData

    from scfm_lab.plugins import Contribution
    from scfm_widgets.session import Session

#: Version of what a panel's JavaScript is given; ``session.version`` in the browser.
SESSION_API = 1


def aside(adata: AnnData) -> AnnData:
    """Make an AnnData of the same cells, sharing what is large: what is left behind in the middle writes into it and not into theirs."""
    import anndata as ad

    raw = adata.raw
    return ad.AnnData(
        adata.X,
        obs=adata.obs.copy(),
        var=adata.var,
        obsm=dict(adata.obsm),
        layers=dict(adata.layers),
        uns={"scfm": adata.uns.get("scfm", {})},
        raw=None if raw is None else {"X": raw.X, "var": raw.var},
    )


class Panel:
    """Base class for a panel; subclassing it is a convenience, the attributes are what counts.

    Parameters
    ----------
    session
        What all panels share: ``session.adata``, ``.model``, ``.state``, ``.selection``, ``.doses``, ``.result``. See
        :class:`scfm_widgets.session.Session`.

    Attributes
    ----------
    title
        The name on the panel's tab. The manifest's ``title`` is used where this is empty.
    esm
        ES module (text or path) that exports ``render({ model, session, el })``; it may return a function that cleans
        up. ``None`` for the bench's own panels.
    css
        Style sheet (text or path) that goes with `esm`, or ``None``.
    component
        Name of a panel in the bench's own bundle, or ``None``.

    Examples
    --------
    >>> class Detected(Panel):
    ...     title = "Detected genes"
    ...     esm = "export function render({ session, el }) { el.textContent = session.get('n') + ' cells'; }"
    ...
    ...     def handle(self, message):
    ...         return {"median": float((self.session.adata.X > 0).sum(1).mean())}
    """

    title: str = ""
    esm: str | Path | None = None
    css: str | Path | None = None
    component: str | None = None

    def __init__(self, session: Session) -> None:
        self.session = session

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer a message from the panel's face.

        Parameters
        ----------
        message
            What the face sent, a JSON object.

        Returns
        -------
        A JSON object; a pair of one and a list of bytes-like buffers; a :class:`concurrent.futures.Future` of either
        (from ``session.submit``, for anything that takes longer than a blink); or ``None`` for "nothing to say". What is
        raised is shown in the bench as the error's sentence, and rejects the promise on the other side.
        """
        raise PluginError(f"The panel '{self.title or type(self).__name__}' does not answer messages.")


@dataclass
class PanelRow:
    """One panel of the bench as it was opened.

    Attributes
    ----------
    id, plugin, title
        From the manifest; the title from the panel where it has one.
    panel
        The object the factory returned, or ``None`` where it failed.
    component, esm, css
        Its face; see :class:`Panel`. `esm` and `css` as text.
    error
        Why it could not be opened, in words, or ``None``.
    """

    id: str
    plugin: str
    title: str
    panel: Any = None
    component: str | None = None
    esm: str | None = None
    css: str | None = None
    error: str | None = None

    def describe(self) -> dict[str, Any]:
        """Give what the browser must know of it, as plain values."""
        return {
            "id": self.id,
            "plugin": self.plugin,
            "title": self.title,
            "component": self.component,
            "esm": self.esm,
            "css": self.css,
            "error": self.error,
        }


def open_panels(session: Session, contributions: Iterable[Contribution] | None = None) -> list[PanelRow]:
    """Open every contributed panel, scfm-lab's own first.

    Parameters
    ----------
    session
        Given to each factory.
    contributions
        Contributions of kind ``panels``; default all that are installed.

    Returns
    -------
    One row per panel. Nothing is raised: a panel that fails is a row whose ``error`` says why.
    """
    if contributions is None:
        contributions = plugins.discover().contributions("panels")
    return [_open(session, contribution) for contribution in contributions]


def _open(session: Session, contribution: Contribution) -> PanelRow:
    row = PanelRow(
        id=contribution.id,
        plugin=contribution.plugin,
        title=str(contribution.data.get("title") or contribution.name.replace("-", " ").capitalize()),
    )
    try:
        panel = contribution.load()(session)
        row.component = getattr(panel, "component", None)
        row.esm, row.css = _text(getattr(panel, "esm", None)), _text(getattr(panel, "css", None))
        row.title = str(getattr(panel, "title", "") or row.title)
        if row.esm is None and row.component is None:
            row.error = f"The panel '{row.id}' has no face: its object needs an 'esm' that exports render({{model, session, el}})."
            return row
        row.panel = panel
    except PluginError as error:
        row.error = str(error)
    # A factory is somebody else's code and can fail in any way; the bench shows that and goes on.
    except Exception as error:  # noqa: BLE001
        row.error = (
            f"The panel '{row.id}' of plugin '{row.plugin}' could not be opened: {type(error).__name__}: {error}"
        )
    return row


def _text(source: str | Path | None) -> str | None:
    """Read a module or style sheet; a text that names a file by a :class:`~pathlib.Path` is read from it."""
    return source.read_text(encoding="utf-8") if isinstance(source, Path) else source
