"""A model version as people see it, and the tags under which the registry keeps what it says.

Tags are an index, since MLflow can only compare them for equality; the evidence behind a measured tag is the run that the
tag names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_registry import hardware_tags, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from scfm_lab.inference.hardware import Fit
    from scfm_lab.models.spec import ModelSpec

#: Layout of the tags.
SCHEMA = "1"
#: What a version can be.
KINDS = ("pretrained", "fine-tuned", "baseline")
#: What a device's tag can say.
DEVICE_STATES = ("verified", "declared", "unsupported", "unknown")
#: Memory sizes, in GiB, up to which ``scfm.fits.<device>.<n>gib`` is recorded: with equality as the only comparison, a
#: cumulative flag per size is how a query asks for "at most".
SIZES_GIB = (2, 4, 8, 16, 24, 40, 80)

#: Tags of a version that was deleted: since when, and why.
TRASHED, BECAUSE = "scfm.trashed", "scfm.trashed_because"

#: Tags of a version that should not be used any more: since when, and a reason for each retraction that concerns it, its own or
#: an ancestor's (``scfm.retracted_because.<beginning of that digest>``).
RETRACTED, RETRACTED_BECAUSE = "scfm.retracted", "scfm.retracted_because"

_PREFIX = "scfm."
#: Tags with the digest of a version's weights: as they were published, and as they are stored.
_WEIGHTS = ("scfm.weights", "scfm.stored_weights")
_KEY = re.compile(r"[A-Za-z0-9_.-]{1,100}")
#: Characters of a tag's value. Texts that are longer lie among a version's files.
_LONGEST = 2_000


@dataclass(frozen=True)
class Record:
    """A version as the store keeps it: MLflow's fields, without MLflow's types."""

    name: str
    version: int
    aliases: tuple[str, ...]
    tags: dict[str, str]
    description: str
    source: str
    created: datetime

    @property
    def reference(self) -> str:
        """``"name/version"``."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class Evidence:
    """A run that is evidence, or a line of the audit trail, as the store keeps it: its id, tags and metrics."""

    run: str
    tags: dict[str, str]
    metrics: dict[str, float]
    started: datetime


@dataclass(frozen=True)
class ModelVersion:
    """One version of a registered model.

    Attributes
    ----------
    name
        The model's name.
    version
        Its number, from 1; unique under this name in this registry only. `digest` is the identity.
    aliases
        Such as ``("champion",)``.
    digest
        ``"sha256:<64 hex>"`` of the manifest of its files.
    kind
        One of :data:`KINDS`.
    family
        Id of the adapter that opens it, such as ``"scfm.starter"``.
    licence
        SPDX expression or ``LicenseRef-…``; empty where nothing is known.
    commercial
        Whether the licence allows commercial use; ``None`` where nothing is known.
    abilities
        What it can do: ``"embed"``, ``"perturb"``, …
    organisms
        Such as ``("human", "mouse")``.
    gene_ids
        ``"symbol"`` or ``"ensembl"``; empty where nothing is known.
    width
        Length of a cell's vector; ``None`` where nothing is known.
    parameters
        Number of trained parameters; 0 for a parameter-free model.
    size
        Bytes of all its files.
    weight_bytes
        Bytes of its weights.
    hardware
        Tags about devices, memory and speed, by key without ``scfm.``, such as ``{"device.cpu": "verified",
        "mem.cpu.peak_mib": "412"}``.
    origin
        ``"built-in"``, ``"import"``, ``"fine-tuned"`` (trained here) or ``"bundle"``.
    card
        The beginning of the model's card, as Markdown.
    created
        When it was registered (UTC).
    tags
        All tags as stored.
    fit
        The answer of :func:`scfm_lab.fits` where a search asked for it.
    instead_of
        Which version (``name/3``) lost its alias to this one, where a promotion gave it; empty where none did.
    remarks
        What whoever has just promoted or imported it should know: of its gate, and which files were left out.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    digest: str
    kind: str
    family: str
    licence: str
    commercial: bool | None
    abilities: frozenset[str]
    organisms: tuple[str, ...]
    gene_ids: str
    width: int | None
    parameters: int | None
    size: int | None
    weight_bytes: int | None
    hardware: dict[str, str]
    origin: str
    card: str
    created: datetime
    tags: dict[str, str] = field(repr=False)
    fit: Fit | None = None
    instead_of: str = field(default="", compare=False)
    remarks: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        told = [", ".join(self.aliases)] if self.aliases else []
        told += [f"instead of {self.instead_of}"] if self.instead_of else []
        return f"{self.reference} ({'; '.join(told)})" if told else self.reference

    @property
    def reference(self) -> str:
        """``"name/version"``."""
        return f"{self.name}/{self.version}"

    @property
    def owner(self) -> str:
        """Who answers for it; whoever registered it, unless somebody else was named."""
        return self.tags.get("scfm.owner", "")

    @property
    def project(self) -> str:
        """What it was made for; empty where nobody said."""
        return self.tags.get("scfm.project", "")

    @property
    def consent(self) -> str:
        """What the donors of its data agreed to, ``"open"``, ``"patient-data"``, …; empty where nobody said."""
        return self.tags.get("scfm.consent", "")

    @property
    def retracted(self) -> str:
        """Why it was retracted, or because of which ancestor; empty where it was not."""
        said = [value for key, value in sorted(self.tags.items()) if key.startswith(f"{RETRACTED_BECAUSE}.")]
        return shown("; ".join(said), _LONGEST) or ("no reason was given" if RETRACTED in self.tags else "")

    @property
    def uri(self) -> str:
        """What :func:`scfm_lab.load_model` takes: ``"models:/name/version"``."""
        return f"models:/{self.reference}"

    def to_dict(self) -> dict[str, Any]:
        """Give all fields as JSON-ready values."""
        return {
            "name": self.name,
            "version": self.version,
            "aliases": list(self.aliases),
            "digest": self.digest,
            "kind": self.kind,
            "family": self.family,
            "licence": self.licence,
            "commercial": self.commercial,
            "abilities": sorted(self.abilities),
            "organisms": list(self.organisms),
            "gene_ids": self.gene_ids,
            "width": self.width,
            "parameters": self.parameters,
            "size": self.size,
            "weight_bytes": self.weight_bytes,
            "hardware": self.hardware,
            "origin": self.origin,
            "owner": self.owner,
            "project": self.project,
            "consent": self.consent,
            "retracted": self.retracted or None,
            "created": self.created.isoformat(timespec="seconds"),
            "fit": None if self.fit is None else {"verdict": self.fit.verdict, "reason": self.fit.reason},
        }


class Versions(list[ModelVersion]):
    """A list of versions that also shows itself as a table.

    Attributes
    ----------
    next
        Where a search with a limit stopped: what the next call is given as ``page``; ``None`` where nothing follows.
    """

    next: str | None = None

    @property
    def table(self) -> pd.DataFrame:
        """One row per version."""
        import pandas as pd

        rows = [
            {
                "name": item.name,
                "version": item.version,
                "aliases": ", ".join(item.aliases),
                "kind": item.kind,
                "family": item.family,
                "organisms": ", ".join(item.organisms),
                "abilities": ", ".join(sorted(item.abilities)),
                "width": item.width,
                "parameters": item.parameters,
                "size_mib": None if item.size is None else round(item.size / 2**20, 2),
                "licence": item.licence,
                "owner": item.owner,
                "project": item.project,
                "consent": item.consent,
                "retracted": item.retracted,
                "fits": "" if item.fit is None else item.fit.verdict,
                "created": item.created,
                "digest": item.digest,
            }
            for item in self
        ]
        columns = list(rows[0]) if rows else ["name", "version", "aliases", "kind", "family"]
        return pd.DataFrame(rows, columns=columns).astype({"version": int})

    def _repr_html_(self) -> str:
        return self.table.to_html(index=False)


def tags(
    spec: ModelSpec,
    *,
    kind: str,
    family: str,
    origin: str,
    weight_bytes: int,
    peak_mib: int,
    tasks: Iterable[str] = (),
    parameter_free: bool = False,
    licence: str | None = None,
    inherited: str | None = None,
    card: str = "",
    beside: str = "",
) -> dict[str, str]:
    """Write down as tags what a model says of itself; its digest and size are added when its files are registered.

    Lists are kept twice: whole, for people, and as one flag per item (``scfm.can.embed``), for queries.

    Parameters
    ----------
    spec
        The opened model's.
    kind, family, origin
        As in :class:`ModelVersion`.
    weight_bytes
        Bytes of its weights.
    peak_mib
        Memory that it takes on a CPU, as :func:`scfm_registry.estimating.peak_mib` estimates it.
    tasks
        What its plugin says it is good for, beside the spec's abilities.
    parameter_free
        Whether nothing in it was trained: a table of principal components counts as no parameters.
    licence
        SPDX expression that somebody has given; by default what the files say, else the spec's. Where its name does not tell
        whether it forbids commercial use, that is not known; what the spec forbids stays forbidden.
    inherited
        Licence of what it was made from, which counts in place of the spec's; ``None`` where it was made from nothing.
    card
        Licence that the card among the files names.
    beside
        What lies among the files as a licence, as :func:`scfm_registry.licences.in_file` gives it: counts where nothing names one.
    """
    from scfm_registry import licences

    # What a plugin wrote in several lines of its code is one line all the same.
    own = " ".join(spec.licence.split()) if inherited is None else inherited
    beside = "" if licence is not None or card else beside
    named = next(
        (
            name
            for name in (licence, card or None, None if spec.commercial is False else beside or None)
            if name is not None
        ),
        own,
    )
    abilities = sorted({*spec.abilities, *tasks})
    found = {
        "scfm.schema": SCHEMA,
        "scfm.kind": kind,
        "scfm.family": family,
        "scfm.origin": origin,
        "scfm.weight_bytes": str(weight_bytes),
        "scfm.params": "0" if parameter_free else str(spec.parameters),
        "scfm.width": str(spec.width),
        "scfm.layers": str(spec.layers),
        "scfm.heads": str(spec.heads),
        "scfm.feed_forward": str(spec.feed_forward),
        "scfm.max_length": str(spec.max_length),
        "scfm.genes": str(spec.n_genes),
        "scfm.gene_ids": spec.genes,
        "scfm.abilities": ",".join(abilities),
        "scfm.organism": ",".join(spec.organisms),
        "scfm.license": own if licences.same(named, own) else named,
        "scfm.citation": " ".join(spec.citation.split()),
        "scfm.commercial": licences.commercial(spec.commercial, own, named=licence, card=card, beside=beside),
        "scfm.device.cpu": "declared",
        "scfm.device.cuda": "unknown",
        "scfm.device.mps": "unknown",
        "scfm.mem.cpu.peak_mib": str(peak_mib),
        "scfm.mem.cpu.source": "estimated",
        **fits_tags("cpu", peak_mib),
    }
    found.update({f"scfm.can.{ability}": "true" for ability in abilities})
    found.update({f"scfm.organism.{organism}": "true" for organism in spec.organisms})
    return {key: value for key, value in found.items() if value}


def strictest(*values: str) -> str:
    """The strictest of several values of the tag that says whether commercial use is allowed; empty is not known.

    Examples
    --------
    >>> strictest("true", "false"), strictest("true", ""), strictest("true", "true")
    ('false', '', 'true')
    """
    return "false" if "false" in values else "true" if all(value == "true" for value in values) else ""


def read(record: Record, *, trashed: bool = False) -> ModelVersion | None:
    """Read a record's tags; ``None`` where it is a version of somebody else's making (no digest of ours), or deleted.

    Parameters
    ----------
    trashed
        Read deleted versions, and no others.
    """
    found = together.settled(record.tags)
    if "scfm.digest" not in found or (TRASHED in found) != trashed:
        return None
    return ModelVersion(
        name=record.name,
        version=record.version,
        aliases=record.aliases,
        digest=found["scfm.digest"],
        kind=found.get("scfm.kind", ""),
        family=found.get("scfm.family", ""),
        licence=found.get("scfm.license", ""),
        commercial={"true": True, "false": False}.get(found.get("scfm.commercial", "")),
        abilities=frozenset(_items(found.get("scfm.abilities", ""))),
        organisms=tuple(_items(found.get("scfm.organism", ""))),
        gene_ids=found.get("scfm.gene_ids", ""),
        width=number(found.get("scfm.width")),
        parameters=number(found.get("scfm.params")),
        size=number(found.get("scfm.size")),
        weight_bytes=number(found.get("scfm.weight_bytes")),
        hardware=hardware_tags.believable(found),
        origin=found.get("scfm.origin", ""),
        card=record.description,
        created=record.created,
        tags=found,
    )


def weights(tags: Mapping[str, str]) -> set[str]:
    """Digests of a version's weights: as they were published, and as they are stored, which is what results name."""
    return {tags[key] for key in _WEIGHTS if tags.get(key)}


def marks(tags: Mapping[str, str]) -> set[tuple[str, str]]:
    """Tags by which copies of a version are known, as key and value: a copy has at least one of them.

    Whatever else lies beside the weights (a card, notes, another configuration) changes the digest of the files alone.

    Examples
    --------
    >>> sorted(marks({"scfm.digest": "sha256:1", "scfm.weights": "sha256:2"}))
    [('scfm.digest', 'sha256:1'), ('scfm.stored_weights', 'sha256:2'), ('scfm.weights', 'sha256:2')]
    """
    files = {("scfm.digest", tags["scfm.digest"])} if tags.get("scfm.digest") else set()
    return files | {(key, value) for value in weights(tags) for key in _WEIGHTS}


def fits_tags(device: str, peak_mib: int) -> dict[str, str]:
    """Say into which sizes of memory a peak of `peak_mib` MiB goes, as cumulative flags."""
    return {f"scfm.fits.{device}.{size}gib": "true" if peak_mib <= size * 1024 else "false" for size in SIZES_GIB}


def when(milliseconds: int) -> datetime:
    """Read MLflow's time stamp (milliseconds since 1970, UTC)."""
    return datetime.fromtimestamp(milliseconds / 1000, tz=UTC)


def _items(text: str) -> list[str]:
    return [item for item in text.split(",") if item]


def number(text: str | None) -> int | None:
    """Read an integer from a tag that anybody with write access may have set; what is none counts as unknown."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None


def is_line(text: object) -> bool:
    """Whether a text can be a tag's value: one line of printable characters, and not too long."""
    return isinstance(text, str) and len(text) <= _LONGEST and text.isprintable()


def check_tags(tags: Mapping[str, str]) -> None:
    """Refuse tags that a terminal or a table could not show as they are.

    Raises
    ------
    ModelError
        A value is no line of printable characters, or too long.

    Examples
    --------
    >>> check_tags({"scfm.project": "Atlas, Zürich"})
    """
    for key, value in tags.items():
        if not (key.isprintable() and is_line(value)):
            message = (
                f"The tag {shown(key)} takes one line of at most {_LONGEST:,} printable characters, and not "
                f"'{shown(value, 60)}'; nothing was changed."
            )
            raise ModelError(message)


def check_licence(licence: str | None) -> None:
    """Refuse as the name of a licence what is none, before anything is read or fetched.

    Raises
    ------
    ModelError
        It is no line of printable characters.
    """
    if licence is not None and not is_line(licence):
        message = (
            f"A licence is named in one line, as in 'CC-BY-4.0', and not as '{shown(licence, 60)}'; its text goes into a file "
            "LICENSE beside the weights."
        )
        raise ModelError(message)


def is_key(text: str) -> bool:
    """Whether `text` can be part of a tag's key."""
    return _KEY.fullmatch(text) is not None


def shown(value: object, limit: int = 120) -> str:
    """Write a value that somebody else chose so that it stays on one line, without control characters, and short."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    text = "".join(letter if letter.isprintable() else "·" for letter in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
