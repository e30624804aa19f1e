"""Measuring versions: the part of a registry that runs them here, and keeps the evidence."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scfm_registry import files, first_opening, measuring, names, together
from scfm_registry.reading import Reader
from scfm_registry.store.words import Denied, tell_denied

if TYPE_CHECKING:
    from scfm_registry.measuring import Measurement


class Measurer(Reader):
    """What runs versions on this machine, and keeps what they took."""

    def measure(
        self,
        reference: str,
        *,
        device: str = "auto",
        precision: str = "auto",
        cells: int = 256,
        repeats: int = 3,
        timeout: float = 1800,
    ) -> Measurement:
        """Run a version on this machine, in a process of its own, and record what it took.

        Load time, peak memory and cells per minute, with the length of the cells and the precision they were measured at, go
        into a JSON document of an MLflow run (the evidence); the version's tags point to it.

        Parameters
        ----------
        reference
            Which version.
        device, precision
            As in :func:`scfm_lab.load_model`.
        cells
            How many of the bundled cells are embedded.
        repeats
            How often, after one warm-up.
        timeout
            Seconds after which it is given up.
        """
        self.check_writable()
        found, record = self._find(names.parse(reference))
        folder, listed = first_opening.ready(self, found, record, weights=False)
        parents = first_opening.opens_with(folder, lambda: self)
        for digest in parents:
            # Its process opens them as well.
            first_opening.ready(self, *self.find_digest(digest), weights=False)
        result = measuring.run(
            folder,
            found,
            hashes={path: entry.sha256 for path, entry in listed.files.items()},
            parents=parents,
            device=device,
            precision=precision,
            cells=cells,
            repeats=repeats,
            timeout=timeout,
        )
        run = self._store.log_run(
            f"measure {found.reference}",
            {
                "scfm.task": "measure",
                "scfm.digest": found.digest,
                "scfm.version": found.reference,
                "scfm.device": result.device,
                "scfm.precision": str(result.evidence["settings"]["precision"]),
                "scfm.machine": str(result.evidence["machine"]["description"]),
            },
            result.metrics,
            {measuring.DOCUMENT: result.evidence},
        )
        try:
            # On a server, too, of two machines one after the other: the larger peak stays.
            with together.alone(self._store, record) as current:
                together.write(self._store, current, measuring.tags(result, run, together.settled(current.tags)))
        except Denied:
            # The run is the evidence, and anybody may add one; the tags are only its index.
            tell_denied("tagged", [found.reference], f"Its card tells of the measurement all the same (run {run}).")
        self.note("measure", record, {"device": result.device, "run": run})
        return replace(result, run=run)

    def evidence(self, run: str) -> dict[str, Any]:
        """Read the record of a measurement back, by the id of its run (tags ``scfm.mem.<device>.run``, ``scfm.speed.<device>.run``)."""
        with files.workshop(self.scratch) as folder:
            return dict(json.loads(self._store.document(run, measuring.DOCUMENT, folder).read_text(encoding="utf-8")))
