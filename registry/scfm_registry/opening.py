"""Opening versions: the part of a registry that gives models and cards."""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from scfm_registry import files, first_opening, names, retracting
from scfm_registry.names import CHAMPION
from scfm_registry.retracting import Retractor

if TYPE_CHECKING:
    from scfm_lab.models.contract import Model
    from scfm_registry.source import ResolvedSource


class Opener(Retractor):
    """What gives the model of a version, or tells about it."""

    def load(
        self,
        reference: str,
        device: str = "auto",
        precision: str = "auto",
        *,
        config: dict[str, Any] | None = None,
        even_retracted: bool = False,
    ) -> Model:
        """Open a version's model; every file is compared with its hash, weights as they are read.

        Parameters
        ----------
        reference
            ``name/3``, ``name@alias`` or ``name``.
        device, precision, config
            As in :func:`scfm_lab.load_model`.
        even_retracted
            Open it, with a warning, although it was retracted.

        Raises
        ------
        ModelError
            The version is unknown or retracted, a file is damaged, or no installed plugin opens its family.
        """
        from scfm_registry import source

        found = self.resolve_to_open(reference, even_retracted=even_retracted)
        # What it was made from opens with it.
        with source.using(self), retracting.allowing() if even_retracted else nullcontext():
            return source.open_model(found, device, precision, config)

    def resolve(self, reference: str, *, even_retracted: bool = False) -> ResolvedSource:
        """Find a version and its files, every one of them checked.

        Raises
        ------
        ModelError
            The version is unknown, damaged, or retracted.
        """
        self.check_usable(self._find(names.parse(reference))[0], even_retracted=even_retracted)
        return self._resolved(reference, weights=True)

    def resolve_to_open(self, reference: str, *, even_retracted: bool = False) -> ResolvedSource:
        """Find a version and its files for :func:`scfm_lab.load_model`, which hashes the weights as it reads them.

        The other files are checked here, and the weights' sizes.

        Raises
        ------
        ModelError
            The version is unknown, damaged, or retracted.
        """
        self.check_usable(self._find(names.parse(reference))[0], even_retracted=even_retracted)
        return self._resolved(reference, weights=False)

    def open_anyway(self, reference: str, device: str, precision: str) -> Model:
        """Open a version whether it was retracted or not, for what looks at it and does not use it."""
        from scfm_registry import source

        with source.using(self), retracting.allowing():
            return source.open_model(self._resolved(reference, weights=False), device, precision)

    def _resolved(self, reference: str, *, weights: bool) -> ResolvedSource:
        from scfm_registry.importing import config_of
        from scfm_registry.source import ResolvedSource

        asked = names.parse(reference)
        found, record = self._find(asked)
        folder, listed = first_opening.ready(self, found, record, weights=weights, copies=weights)
        return ResolvedSource(
            path=folder,
            name=found.name,
            version=found.version,
            alias=asked.alias or (CHAMPION if asked.version is None and CHAMPION in found.aliases else None),
            digest=found.digest,
            adapter=found.family,
            config=config_of(folder),
            hashes={path: entry.sha256 for path, entry in listed.files.items()},
            anew=None if self._store.files(record) is not None else partial(files.renew, self._store, found, record),
            provenance={
                "model": found.name,
                "version": found.version,
                "digest": found.digest,
                "family": found.family,
                "kind": found.kind,
                "registry": "embedded" if self._place.embedded else self._place.shown,
            },
        )

    def training(self, reference: str) -> dict[str, Any] | None:
        """Tell how a version was trained, from its record; ``None`` where it has none that can be read.

        Returns
        -------
        dict
            labels (their names), split, seed, data (digest, cells, …), vocabulary (digest of the genes), settings, method, who, when;
            ``None`` for what the record does not say.
        """
        from scfm_registry import scores

        found, record = self._find(names.parse(reference))
        content = files.contents(self._store, found, record, scores.FINETUNING.__eq__).get(scores.FINETUNING)
        try:
            told = json.loads(content or b"")
        except (ValueError, RecursionError):
            return None
        if not isinstance(told, dict):
            return None
        labels, settings = (value if isinstance(value := told.get(key), dict) else {} for key in ("labels", "settings"))
        rest = ("split", "data", "vocabulary", "settings", "method", "who", "when")
        return {"labels": labels.get("names"), "seed": settings.get("seed"), **{key: told.get(key) for key in rest}}

    def card(self, reference: str) -> str:
        """Give a version's model card as Markdown: what is on record about it, then the card that came with its files."""
        from scfm_registry import cards, scores
        from scfm_registry.importing import CARDS

        found, record = self._find(names.parse(reference))
        told = files.contents(self._store, found, record, {*CARDS, scores.FINETUNING, scores.CELLS}.__contains__)
        about = cards.About(
            scores=scores.of(self, found, record, told),
            measurements=self._store.runs("measure", {"scfm.digest": found.digest}),
            parents=[item.reference for item in self.with_digest(found.tags.get("scfm.parent_digest", ""))],
        )
        body = next((told[name] for name in CARDS if name in told), b"")
        return cards.render(found, body.decode("utf-8", errors="replace"), about)
