"""Write a fine-tuned model: what changed beside its parent, or everything in the family's published format."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import DataError, StorageError
from scfm_lab.models.files import sha256
from scfm_lab.models.finetuned import CELLS, CHANGES, RECORD, WEIGHTS, FineTuning, write, write_record
from scfm_lab.models.published_writers import write_published, writes_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch

    from scfm_lab.models.contract import Model


@dataclass(frozen=True)
class PublishedFolder:
    """A model that was written in its family's published format.

    Attributes
    ----------
    folder
        Where it lies.
    model, family
        Names.
    files
        Paths in the folder, sorted.
    notes
        Sentences about what the format has no place for, and where that is.
    """

    folder: Path
    model: str
    family: str
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def summary(self) -> str:
        """What was written where, and what the format has no place for."""
        head = f"{self.model} is in {self.folder} as {self.family} is published: {', '.join(self.files)}."
        return "\n".join([head, *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "folder": str(self.folder),
            "model": self.model,
            "family": self.family,
            "files": list(self.files),
            "notes": list(self.notes),
        }


def save(model: Model, changed: Mapping[str, torch.Tensor], folder: Path, *, full: bool) -> Path:
    """See :meth:`scfm_lab.training.finetune_result.FineTuneResult.save`."""
    assert model.finetuning is not None
    if full:
        return save_published(model, folder).folder
    with new_folder(folder) as unfinished:
        write(unfinished, model.finetuning, changed)
    return folder


def save_published(model: Model, folder: Path, *, more: Mapping[str, str] | None = None) -> PublishedFolder:
    """Write a model into a new folder in the format in which its family is published.

    :func:`scfm_lab.load_model` opens the folder, and so does the family's own code. Of a fine-tuned model the record of its
    training, the digests of its cells and, where the format has no place for it, its head lie beside in files of this project.

    Parameters
    ----------
    model
        Any that has such a format, fine-tuned or not.
    folder
        It must not exist, or be empty.
    more
        Texts that go with it: name of the file → content.

    Returns
    -------
    PublishedFolder

    Raises
    ------
    DataError
        The folder holds something.
    ModelError
        The family has no published format, or the model was opened with files that have no place in it.
    StorageError
        The folder cannot be written.

    Examples
    --------
    >>> import scfm_lab as sl
    >>> from pathlib import Path
    >>> from scfm_lab.models.finetuned_files import save_published
    >>> save_published(sl.load_model("starter"), Path("starter")).family
    'starter'
    """
    with new_folder(folder) as unfinished:
        notes = write_published(model, unfinished)
        if model.finetuning is not None:
            notes.append(_beside(model, unfinished))
        for name, text in (more or {}).items():
            (unfinished / name).write_text(text, encoding="utf-8")
        files = tuple(sorted(str(p.relative_to(unfinished)) for p in unfinished.rglob("*") if p.is_file()))
    return PublishedFolder(folder, model.name, model.spec.family, files, tuple(notes))


def _beside(model: Model, folder: Path) -> str:
    """Write what is this project's own beside the published files; a sentence about it."""
    tuning = model.finetuning
    assert tuning is not None
    head = {} if model.head is None else {f"head.{k}": v.cpu().contiguous() for k, v in model.head.state_dict().items()}
    record = {**tuning.record, "storage": "full"}
    write(folder, FineTuning(record, tuning.cells), head)
    # So that the same model is known again, here and as what changed beside its parent, as long as these are its files.
    hashes = {
        path.relative_to(folder).as_posix(): sha256(path).removeprefix("sha256:")
        for path in sorted(folder.rglob("*"))
        if path.name.endswith(WEIGHTS)
    }
    write_record(folder, {**record, "whole": {"same_as": model.digest, "files": hashes}})
    told = f"The record of the fine-tuning is {RECORD} with {CHANGES}" + (f" and {CELLS}" if tuning.cells else "")
    if head and not writes_head(model):
        kind = f"{model.spec.family}'s format has no place for a {model.head_kind} head"
        return f"{told}; they hold the head of the labels too, since {kind}. The family's own code gives vectors without it."
    return f"{told}, which the family's own code does not read."


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes its name when all is written; nothing is left of one that was not finished."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already and holds something; give the name of a new folder.")
    unfinished = folder.with_name(f".{os.getpid()}.{folder.name}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if folder.exists():
            folder.rmdir()
        unfinished.rename(folder)
    except OSError as error:
        raise StorageError(f"The model cannot be written to {folder} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
