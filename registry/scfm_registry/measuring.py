"""What a model needs on this machine, found by running it in a process of its own."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError, StorageError
from scfm_registry import hardware_tags, version, workers

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from scfm_registry.version import ModelVersion

#: Name of the evidence among a run's files.
DOCUMENT = "measurement.json"
#: Layout of the evidence.
SCHEMA = 1


@dataclass(frozen=True)
class Measurement:
    """What one measurement found, and the whole record it is taken from.

    Attributes
    ----------
    version
        Which version was measured.
    evidence
        The record, as kept in the registry: machine, settings, every repeat, memory, digest of the vectors.
    run
        Id of the MLflow run that keeps it.
    """

    version: ModelVersion
    evidence: dict[str, Any]
    run: str = ""

    @property
    def device(self) -> str:
        """``"cpu"``, ``"cuda"`` or ``"mps"``."""
        return str(self.evidence["settings"]["device"]).partition(":")[0]

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers for MLflow: seconds, MiB, cells per minute."""
        return {
            "load_seconds": self.evidence["load_seconds"],
            "peak_mib": self.evidence["memory"]["peak_mib"],
            "cells_per_minute": self.evidence["cells_per_minute"]["median"],
            "cells_per_minute_best": self.evidence["cells_per_minute"]["best"],
            "tokens_per_cell": self.evidence["cells"]["mean_length"],
            "worst_cosine_to_float32": self.evidence["output"]["worst_cosine_to_float32"],
        }

    @property
    def table(self) -> pd.DataFrame:
        """One row per repeat: seconds, cells per minute."""
        import pandas as pd

        seconds = self.evidence["repeats"]
        count = self.evidence["cells"]["count"]
        return pd.DataFrame({"seconds": seconds, "cells_per_minute": [60 * count / value for value in seconds]})

    def summary(self) -> str:
        """A few lines for people."""
        record, cells = self.evidence, self.evidence["cells"]
        return (
            f"{self.version.reference} on {record['machine']['description']}\n"
            f"  {record['settings']['device']}, {record['settings']['precision']}, {record['settings']['threads']} threads\n"
            f"  opens in {record['load_seconds']:.2f} s\n"
            f"  {record['cells_per_minute']['median']:,.0f} cells a minute ({cells['count']} cells of {cells['mean_length']:.0f} "
            f"genes on average, {len(record['repeats'])} repeats)\n"
            f"  {record['memory']['peak_mib']:,} MiB at its peak\n"
            f"  vectors {record['output']['digest']}, cosine to those in float32 at worst "
            f"{record['output']['worst_cosine_to_float32']:.6f}"
        )


def run(
    folder: Path,
    found: ModelVersion,
    *,
    hashes: Mapping[str, str] | None = None,
    parents: Mapping[str, Mapping[str, str]] | None = None,
    device: str = "auto",
    precision: str = "auto",
    cells: int = 256,
    repeats: int = 3,
    timeout: float = 1800,
) -> Measurement:
    """Measure the model in `folder`: files with these SHA-256 by relative path; `parents` has what it opens with, by digest.

    The other parameters are those of :meth:`scfm_registry.Registry.measure`.

    Raises
    ------
    ModelError
        The model does not open or run there, runs out of memory, or takes too long.
    """
    if cells < 1 or repeats < 1:
        message = f"A measurement needs at least one cell and one repeat; it was asked for {cells} and {repeats}."
        raise ModelError(message)
    request = {
        "folder": str(folder),
        "family": found.family,
        "label": found.reference,
        "hashes": dict(hashes or {}),
        "parents": dict(parents or {}),
        "device": device,
        "precision": precision,
        "cells": cells,
        "repeats": repeats,
    }
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        command = [*workers.PYTHON, "scfm_registry.measure_worker", str(answer)]
        try:
            done = subprocess.run(
                command, input=json.dumps(request), capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            message = (
                f"{found.reference} was not done after {timeout:.0f} seconds on {device}; measure fewer cells, or give it a "
                f"longer timeout (--timeout {max(60, 2 * timeout):.0f})."
            )
            raise ModelError(message) from error
        except OSError as error:
            message = f"The measurement of {found.reference} could not be started ({error.strerror})."
            raise StorageError(message) from error
        try:
            result = json.loads(answer.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(_died(found, done)) from error
    if "error" in result:
        message = f"{found.reference} could not be measured: {result['error']}"
        raise ModelError(message)
    measured = Measurement(found, {"schema": SCHEMA, "digest": found.digest, "version": found.reference, **result})
    hardware_tags.check_measured(measured.metrics, found.reference)
    return measured


def tags(result: Measurement, run_id: str, current: Mapping[str, str]) -> dict[str, str]:
    """Index a measurement: the tags to set beside those that a version has (`current`).

    A peak only grows and a speed only rises: several machines measure the same device kind, and the tag must hold for all.
    """
    device = result.device
    found = {
        f"scfm.device.{device}": "verified",
        f"scfm.dtype.{result.evidence['settings']['precision']}": "verified",
    }
    peak = math.ceil(result.metrics["peak_mib"])
    known = current.get(f"scfm.mem.{device}.source") == "measured" and hardware_tags.number(current, "mem", device)
    if peak > (known or 0):
        # The run is that of the peak: the evidence of a tag is what it names.
        found |= {
            f"scfm.mem.{device}.peak_mib": str(peak),
            f"scfm.mem.{device}.source": "measured",
            f"scfm.mem.{device}.run": run_id,
            **version.fits_tags(device, peak),
        }
    speed = math.floor(result.metrics["cells_per_minute_best"])
    if speed > (hardware_tags.number(current, "speed", device) or 0):
        found[f"scfm.speed.{device}.best_cpm"] = str(speed)
        found[f"scfm.speed.{device}.length"] = str(round(result.metrics["tokens_per_cell"]))
        found[f"scfm.speed.{device}.run"] = run_id
    return found


def _died(found: ModelVersion, done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode in (-9, 137):
        return f"{found.reference} was ended by the system while it ran, most likely for lack of memory; it does not fit here."
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    reason = lines[-1] if lines else f"exit code {done.returncode}"
    return f"{found.reference} could not be measured: its process ended with: {reason}"
