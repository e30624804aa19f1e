"""Finished parts of a leaderboard, on disk: after a kill the same call goes on where it was."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scfm_lab.errors import StorageError
from scfm_lab.evaluation.naming import Identity
from scfm_lab.evaluation.score import Score


@dataclass(frozen=True)
class Finished:
    """One part of one model."""

    part: str
    identity: Identity
    scores: tuple[Score, ...]
    """The model's own are under its plain name."""
    seconds: float
    resumed: bool
    """Whether it was finished before, and not computed now."""
    run: str = ""
    """Id of the run that keeps its scores; empty where none does."""
    notes: tuple[str, ...] = ()
    """What holds for all of the scores: how the data was split, what could not be had."""

    @property
    def model(self) -> str:
        """The model's name."""
        return self.identity.name

    @property
    def version(self) -> str:
        """In the registry or of the plugin that brings it; empty where it has none."""
        return self.identity.version


@dataclass(frozen=True)
class Store:
    """Finished parts, a file each; written whole or not at all."""

    folder: Path

    @classmethod
    def at(cls, folder: str | Path | None) -> Store:
        """In a folder, made where it is not there; None: in the data directory.

        Raises
        ------
        StorageError
            It cannot be made.
        """
        from scfm_lab.home import data_home

        place = data_home() / "leaderboards" if folder is None else Path(folder).expanduser()
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The folder {place} for finished parts cannot be made ({error.strerror}).") from error
        return cls(place)

    def read(self, key: str) -> Finished | None:
        """A part as it was kept; None where it was not."""
        try:
            told = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            scores = tuple(_score(row) for row in told.pop("scores"))
            told |= {"identity": Identity(*told["identity"]), "notes": tuple(map(str, told["notes"]))}
            return Finished(**told, scores=scores, resumed=True)
        except (OSError, ValueError, TypeError, KeyError):
            # Not there, or not ours: it is computed.
            return None

    def write(self, key: str, found: Finished) -> None:
        """Keep a part.

        Raises
        ------
        StorageError
            The disk is full or the folder cannot be written to.
        """
        told = {k: v for k, v in asdict(found).items() if k != "resumed"}
        told["scores"] = [
            {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}
            for row in told["scores"]
        ]
        path = self.folder / f"{key}.json"
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            temporary.write_text(json.dumps(told, default=float), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StorageError(f"The finished part cannot be kept in {self.folder} ({error.strerror}).") from error


def _score(row: dict[str, Any]) -> Score:
    """A score as it was written: JSON has no NaN."""
    values: dict[str, Any] = {key: np.nan if value is None else value for key, value in row.items()}
    return Score(**values)
