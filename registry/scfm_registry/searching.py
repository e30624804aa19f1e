"""Which versions a search means: conditions that the store can compare, and those that only Python can."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError, did_you_mean
from scfm_registry import hardware_tags, version
from scfm_registry.names import CHAMPION
from scfm_registry.version import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scfm_lab.inference.hardware import Hardware, Needs
    from scfm_registry.version import ModelVersion


def conditions(
    *, organism: str | None, can: str | Iterable[str], family: str | None, kind: str | None
) -> dict[str, str]:
    """Write conditions as tags that must be equal, the only comparison the store has.

    Raises
    ------
    ModelError
        There is no such kind.
    """
    wanted: dict[str, str] = {}
    if kind is not None:
        if kind not in KINDS:
            message = f"There is no kind '{kind}'; kinds are {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}"
            raise ModelError(message)
        wanted["scfm.kind"] = kind
    if family is not None:
        wanted["scfm.family"] = family if "." in family else f"scfm.{family}"
    flags = [] if organism is None else [f"organism.{organism.lower()}"]
    flags += [f"can.{ability}" for ability in ([can] if isinstance(can, str) else can)]
    for flag in flags:
        if not version.is_key(flag):
            message = (
                f"{flag.partition('.')[2]!r} is not a word that a model could be tagged with; use letters and hyphens."
            )
            raise ModelError(message)
        wanted[f"scfm.{flag}"] = "true"
    return wanted


def with_words(found: list[ModelVersion], text: str) -> list[ModelVersion]:
    """Keep versions in whose name, tags or card every word of `text` stands."""
    words = text.casefold().split()
    return [item for item in found if all(word in _searchable(item) for word in words)]


def one_each(found: list[ModelVersion]) -> list[ModelVersion]:
    """Give each model once: the champion, else the first, which is the newest."""
    chosen: dict[str, ModelVersion] = {}
    for item in found:
        if item.name not in chosen or CHAMPION in item.aliases:
            chosen[item.name] = item
    return list(chosen.values())


def fitting(found: list[ModelVersion], hardware: Hardware | str) -> list[ModelVersion]:
    """Put the answer whether it fits `hardware` into each version, and leave out those that do not.

    Raises
    ------
    ModelError
        `hardware` is a text other than "this machine".
    """
    from scfm_lab.inference.hardware import Hardware
    from scfm_lab.inference.hardware import fits as fits_on

    if isinstance(hardware, str):
        if hardware != "this machine":
            message = f'fits={hardware!r} is not understood; write fits="this machine", or give a scfm_lab.Hardware.'
            raise ModelError(message)
        hardware = Hardware.detect()
    answered = [replace(item, fit=fits_on(needs(item, hardware.device), hardware)) for item in found]
    return [item for item in answered if item.fit]


def needs(item: ModelVersion, device: str = "cpu") -> Needs:
    """What a version needs on a kind of device, for :func:`scfm_lab.fits`: measured if it was measured there, else estimated.

    Parameters
    ----------
    item
        The version.
    device
        ``"cpu"``, ``"mps"`` or ``"cuda"``.
    """
    from scfm_lab.inference.hardware import Needs

    peak = hardware_tags.number(item.tags, "mem", device)
    measured = item.tags.get(f"scfm.mem.{device}.source") == "measured"
    shape = {key: version.number(item.tags.get(f"scfm.{key}")) or 0 for key in ("layers", "heads", "feed_forward")}
    return Needs(
        parameters=item.parameters or 0,
        width=item.width or 0,
        length=version.number(item.tags.get("scfm.max_length")) or 2048,
        weight_bytes=item.weight_bytes,
        measured_gib=peak / 1024 if measured and peak else None,
        # What was estimated of the opened model knows more than its shape does.
        estimated_gib=peak / 1024 if peak and not measured else None,
        **shape,
    )


def _searchable(item: ModelVersion) -> str:
    return " ".join([item.name, *item.tags.values(), item.card]).casefold()
