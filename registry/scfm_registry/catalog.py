"""The published checkpoints: where to get them, what they need, what they may be used for, and which are here already."""

from __future__ import annotations

import tomllib
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from scfm_registry.reading import Reader


@dataclass(frozen=True)
class Published:
    """A checkpoint as its authors publish it.

    Attributes
    ----------
    id
        What it is called here, a good name to register it by.
    family
        Id of the adapter that opens it.
    title, trained_on, organisms
        What it is.
    where
        The authors' own address.
    files
        What its folder must hold.
    beside
        What else it needs, and where that is.
    parameters
        Number of parameters; None where the authors do not say.
    size
        Bytes of the weights, where the authors' records give it.
    sha256
        Of the weights, where the authors' records give it.
    get
        Addresses that ``import`` fetches it from (``from``, and ``to`` where the address does not name the file): the checkpoint
        first. Empty where the authors publish it on a page.
    licence, commercial
        The family's; `commercial` is None where the licence of the weights does not say.
    here
        References of the registered versions with these weights; None where no SHA-256 is known to compare.
    """

    id: str
    family: str
    title: str
    trained_on: str
    organisms: tuple[str, ...]
    where: str
    files: tuple[str, ...]
    beside: str = ""
    parameters: int | None = None
    size: int | None = None
    sha256: str = ""
    get: tuple[dict[str, Any], ...] = ()
    licence: str = ""
    commercial: bool | None = None
    here: tuple[str, ...] | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Catalog(list[Published]):
    """A list of published checkpoints that also shows itself as a table."""

    @property
    def table(self) -> pd.DataFrame:
        """One row for each checkpoint."""
        import pandas as pd

        columns = ["id", "title", "trained_on", "organisms", "parameters", "licence", "commercial", "where", "here"]
        rows = [{name: getattr(item, name) for name in columns} for item in self]
        frame = pd.DataFrame(rows, columns=columns)
        frame["organisms"] = frame["organisms"].map(", ".join)
        frame["here"] = frame["here"].map(lambda found: "unknown" if found is None else ", ".join(found))
        return frame

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)


@cache
def _read() -> tuple[dict[str, Any], ...]:
    text = files("scfm_registry").joinpath("catalog.toml").read_text(encoding="utf-8")
    return tuple(tomllib.loads(text)["checkpoints"])


def catalog(registry: Reader | None = None) -> Catalog:
    """The checkpoints that authors publish, of all families that are installed.

    Parameters
    ----------
    registry
        Where is looked which of them are here; None: nowhere.
    """
    from scfm_lab.plugins import discover

    installed = {item.id: item.data for item in discover().contributions("models")}
    here: dict[str, list[str]] = {}
    if registry is not None:
        for item in registry.search(all_versions=True):
            here.setdefault(item.tags.get("scfm.weights", ""), []).append(item.reference)
    found = Catalog()
    for entry in _read():
        if entry["family"] not in installed:
            continue
        about = installed[entry["family"]]
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        known = tuple(here.get(f"sha256:{entry['sha256']}", ())) if registry is not None and "sha256" in entry else None
        found.append(
            Published(**told, licence=about.get("licence", ""), commercial=about.get("commercial"), here=known)
        )
    return found
