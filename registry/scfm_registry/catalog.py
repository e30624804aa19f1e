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
    from scfm_registry.version import ModelVersion


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
    weights_mib
        MiB of the weights: of `size`, else as the published shapes or numbers of parameters give it; None where neither is published.
    memory_mib
        What the registry estimates that a process takes which embeds with it on a CPU in float32, as the tag
        ``scfm.mem.cpu.peak_mib`` tells of a version; None where the shapes are not published.
    reckoned
        What both are reckoned from, or why they cannot be.
    sha256
        Of the weights, where the authors' records give it.
    get
        Addresses that ``import`` fetches it from (``from``, and ``to`` where the address does not name the file): the checkpoint
        first. Empty where the authors publish it on a page.
    licence, commercial, citation
        The family's; `commercial` is None where the licence of the weights does not say.
    here
        References of the registered versions with these weights, known by their SHA-256 or, where none is published, by the
        address that they were imported from, else by their name, if it is this `id`; None where none of that tells.
    here_by
        By what they are known: ``"SHA-256"``, ``"address"`` or ``"name"``, which people give; empty where `here` names none.
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
    weights_mib: int | None = None
    memory_mib: int | None = None
    reckoned: str = ""
    sha256: str = ""
    get: tuple[dict[str, Any], ...] = ()
    licence: str = ""
    commercial: bool | None = None
    citation: str = ""
    here: tuple[str, ...] | None = field(default=None, compare=False)
    here_by: str = field(default="", compare=False)

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
        columns += ["here_by", "weights_mib", "memory_mib", "sha256", "citation"]
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
    versions = registry.everything() if registry is not None else None
    found = Catalog()
    for entry in _read():
        if entry["family"] not in installed:
            continue
        about = installed[entry["family"]]
        here, by = (None, "") if versions is None else _here(entry, versions)
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
        if "size" in entry:
            told["weights_mib"] = round(entry["size"] / 2**20)
        found.append(
            Published(
                **told,
                licence=about.get("licence", ""),
                commercial=about.get("commercial"),
                citation=about.get("citation", ""),
                here=here,
                here_by=by if here else "",
            )
        )
    return found


def _here(entry: dict[str, Any], versions: list[ModelVersion]) -> tuple[tuple[str, ...] | None, str]:
    """Versions that are this checkpoint, None where that cannot be told, and by what they are known."""
    from scfm_registry.sharing.addresses import shown

    def like(tag: str, value: str) -> tuple[str, ...]:
        return tuple(item.reference for item in own if item.tags.get(tag) == value)

    own = [item for item in versions if item.family == entry["family"]]
    if "sha256" in entry:
        return like("scfm.weights", f"sha256:{entry['sha256']}"), "SHA-256"
    # Without a hash, what was imported from the authors' address is theirs.
    address = shown(entry["get"][0]["from"]) if "get" in entry else ""
    if address and (found := like("scfm.source", address)):
        return found, "address"
    # A folder that somebody gave may be it or not; under this name he says that it is.
    return tuple(item.reference for item in own if item.name == entry["id"]) or None, "name"
