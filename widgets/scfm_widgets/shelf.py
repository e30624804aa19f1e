"""Models that a bench has opened: one for each version, and what an alias meant when it was picked.

An alias can be moved while a bench is open. The bench goes on with the version that was picked, says so, and opens another one
only when another one is picked.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ScfmError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_lab.models.contract import Model

#: Before the reference of a version in the registry.
REGISTRY = "models:/"
#: Opened models that are kept beside those that were handed in; opening one again takes time and no more.
MOST_MODELS = 3


def is_moving(source: str) -> bool:
    """Whether a source may mean another version tomorrow: a reference by alias, or by a name alone."""
    return source.startswith(REGISTRY) and not source.rpartition("/")[2].isdigit()


class Shelf:
    """The opened models of a bench, by the source under which they were asked for."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Model] = OrderedDict()
        #: Handed in from Python: nobody can open them a second time.
        self._given: dict[str, Model] = {}
        self._meant: dict[str, str] = {}
        self._guard = threading.RLock()
        #: By source, so that one that opens slowly, or is waited for no more, holds up no other.
        self.opening: dict[str, threading.Lock] = {}

    def exact(self, source: str) -> str:
        """A source with the version that its alias meant when it was picked; as it is where that is not known."""
        with self._guard:
            return f"{REGISTRY}{self._meant[source]}" if source in self._meant else source

    def get(self, source: str) -> Model | None:
        """The model of a source, if it is open."""
        with self._guard:
            if source in self._given:
                return self._given[source]
            exact = self.exact(source)
            if is_moving(exact) or exact not in self._kept:
                return None
            self._kept.move_to_end(exact)
            return self._kept[exact]

    def given(self, source: str) -> Model | None:
        """The model that was handed in under a source."""
        return self._given.get(source)

    def adopt(self, model: Model) -> str:
        """Take a model that is open already; give the source by which the bench calls it.

        It is the model's own source only where that opens the same model again.
        """
        name = model.source
        given = [f"{what}=" for what in ("config", "files") if model.asked.get(what)]
        if made_in_python(name):
            name = f"{model.spec.name} (made in Python)"
        elif given:
            name = f"{name} (with {' and '.join(given)})"
        elif is_moving(name) and "/" in model.version:
            # Whatever the alias means by now: this is what it meant.
            name = f"{REGISTRY}{model.version}"
        with self._guard:
            own, number = name, 2
            while self._given.get(own, model) is not model:
                own, number = f"{name} {number}", number + 1
            self._given[own] = model
        return own

    def open(self, source: str) -> Model:
        """Open a model, or give it where it is open already; an alias means what it meant when it was first asked for.

        Raises
        ------
        ModelError
            It is unknown or its files are damaged.
        """
        from scfm_lab.models.load import load_model

        with self.opening.setdefault(source, threading.Lock()):
            known = self.get(source)
            if known is not None:
                return known
            if is_moving(source):
                self.mean(source, _meaning(source))
                known = self.get(source)
                if known is not None:
                    return known
            exact = self.exact(source)
            model = load_model(exact)
            with self._guard:
                self._kept[exact] = model
                while len(self._kept) > MOST_MODELS:
                    self._kept.popitem(last=False)
            return model

    def mean(self, source: str, version: str) -> None:
        """Take down which version, ``name/3``, an alias means, unless that is known already."""
        with self._guard:
            self._meant.setdefault(source, version)

    def forget(self, source: str) -> None:
        """Nobody has picked an alias any more: who picks it again means what it means then."""
        with self._guard:
            self._meant.pop(source, None)

    def version_of(self, source: str) -> str | None:
        """The version in the registry, ``name/3``, that a source means here, or means now where nobody has asked; else ``None``."""
        exact = self.exact(source)
        if not exact.startswith(REGISTRY):
            return None
        if not is_moving(exact):
            return exact.removeprefix(REGISTRY)
        try:
            return _meaning(exact)
        except ScfmError:
            return None

    def as_picked(self, rows: Iterable[dict[str, Any]]) -> list[str]:
        """Let each picked alias stand for the version that it meant when it was picked, in the registry's rows.

        Returns
        -------
        A sentence for each alias that was moved since.
        """
        rows, told = list(rows), []
        with self._guard:
            meant = dict(self._meant)
        for source, version in meant.items():
            now = next((row for row in rows if source in row["sources"]), None)
            if now is not None and now["reference"] == version:
                continue
            for row in rows:
                if row["reference"] == version:
                    row["sources"].append(source)
            if now is None:
                continue
            now["sources"].remove(source)
            told.append(
                f"{source.removeprefix(REGISTRY)} means {now['reference']} since; this bench goes on with {version}, as it was "
                f"picked. Pick {now['reference']} in the list to change to it."
            )
        return told

    def close(self) -> None:
        """Let all of them go."""
        with self._guard:
            self._kept.clear()
            self._given.clear()


def made_in_python(source: str) -> bool:
    """Whether a model has no source that opens it again: it was fitted, fine-tuned or put together in this process."""
    return source in ("", "fit")


def _meaning(source: str) -> str:
    from scfm_registry.source import environment

    return str(environment().get(source.removeprefix(REGISTRY)).reference)
