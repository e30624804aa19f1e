"""Plugins: what is installed beside scfm-lab, found through manifests and loaded only when it is used.

A package takes part by shipping one TOML manifest and one entry point in the group ``scfm_lab.manifest`` whose value is
``"package:file.toml"``. Listing plugins reads those files and nothing else: no plugin is imported, so a plugin that cannot
be imported is listed all the same, and one that is broken is a row that says so. scfm-lab's own models, sources, commands
and panels come through the same door.

Examples
--------
>>> from scfm_lab import plugins
>>> catalogue = plugins.discover()
>>> [row.name for row in catalogue.plugins][:1]
['scfm']
>>> catalogue.get("models", "scfm.pca").data["adapter"]  # nothing has been imported yet
'scfm_lab.models.pca:PCA'
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from scfm_lab import _manifest
from scfm_lab._announced import GROUP, OWN, Announcement, announced, locate
from scfm_lab._manifest import API_VERSION, SCHEMA_VERSION
from scfm_lab.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["API_VERSION", "GROUP", "KINDS", "SCHEMA_VERSION", "Catalogue", "Contribution", "Plugin", "discover"]

#: What a plugin can contribute.
KINDS = tuple(_manifest.KINDS)


@dataclass(frozen=True)
class Plugin:
    """One plugin as a row: who it is, and what is wrong with it if anything is.

    Attributes
    ----------
    name
        Its name, from the manifest; the entry point's name where the manifest gives none.
    version
        The version of the distribution that ships it.
    package
        The import package that holds the manifest.
    distribution
        The distribution's name, or ``None`` for a checkout that is not installed.
    manifest
        The manifest's path, or ``None`` where none was found.
    faults
        What is wrong, one sentence each. Contributions that are not touched by a fault stay in use.
    warnings
        What is suspicious but harmless (keys that this version does not know).
    counts
        How many contributions of each kind are in use.
    """

    name: str
    version: str
    package: str
    distribution: str | None = None
    manifest: Path | None = None
    faults: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def error(self) -> str | None:
        """What is wrong, in words, or ``None``."""
        return "; ".join(self.faults) or None

    @property
    def own(self) -> bool:
        """Whether it is part of scfm-lab itself."""
        return OWN.get(self.name) == self.package


@dataclass(frozen=True)
class Contribution:
    """Something a plugin offers: declared in its manifest, imported on :meth:`load`.

    Attributes
    ----------
    id
        ``"<plugin>.<name>"``.
    kind
        One of :data:`KINDS`.
    plugin
        The plugin's name.
    data
        The manifest's entry as written.
    """

    id: str
    kind: str
    plugin: str
    data: dict[str, Any]
    _failures: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The part of the id after the plugin's name."""
        return self.id.partition(".")[2]

    @property
    def target(self) -> str:
        """Where the object is: ``"package.module:Name"``."""
        return str(self.data[_manifest.KINDS[self.kind].target])

    def load(self) -> Any:
        """Import the object this contribution names.

        Returns
        -------
        The adapter class, loader function, command or panel factory.

        Raises
        ------
        PluginError
            The plugin cannot be imported or does not hold the object; the message names the plugin and the reason.
        """
        return _import(self.plugin, f"'{self.id}'", self.target, self._failures)


@dataclass(frozen=True)
class Check:
    """Something a plugin offers to check with, from its manifest's table ``[checks]``.

    Attributes
    ----------
    plugin
        The plugin's name.
    of
        ``"doctor"`` (what ``scfm-lab doctor`` asks) or the kind of contribution that it proves.
    target
        Where the function is: ``"package.module:name"``.
    """

    plugin: str
    of: str
    target: str
    _failures: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def load(self) -> Any:
        """Import the function.

        Raises
        ------
        PluginError
            As for :meth:`Contribution.load`.
        """
        return _import(self.plugin, f"its check of '{self.of}'", self.target, self._failures)


@dataclass(frozen=True)
class Catalogue:
    """All plugins found, and what they contribute. Made by :func:`discover`."""

    _rows: tuple[Plugin, ...]
    _contributions: tuple[Contribution, ...]
    _checks: tuple[Check, ...] = ()
    _failures: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """One row per plugin, scfm-lab's own first; a plugin that failed to load since has its error here too."""
        return tuple(
            replace(row, faults=(*row.faults, self._failures[row.name])) if self._failed(row) else row
            for row in self._rows
        )

    def contributions(self, kind: str) -> list[Contribution]:
        """Give all contributions of one kind, scfm-lab's own first.

        Parameters
        ----------
        kind
            One of :data:`KINDS`.

        Raises
        ------
        PluginError
            There is no such kind.
        """
        if kind not in KINDS:
            message = f"There is no kind of contribution called '{kind}'; there are {', '.join(KINDS)}."
            raise PluginError(message)
        return [item for item in self._contributions if item.kind == kind]

    def get(self, kind: str, identifier: str) -> Contribution:
        """Give the contribution of that kind and id.

        Raises
        ------
        PluginError
            No plugin contributes it; the message lists what there is, and names a plugin that failed.
        """
        known = {item.id: item for item in self.contributions(kind)}
        if identifier in known:
            return known[identifier]
        message = f"No plugin contributes '{identifier}' to {kind}.{did_you_mean(identifier, known)}"
        if known:
            message += f" Known: {', '.join(known)}."
        owner = identifier.partition(".")[0]
        for row in self.plugins:
            if row.name == owner and row.error:
                message += f" Plugin '{owner}' has an error: {row.error}."
        raise PluginError(message)

    def checks(self, of: str) -> list[Check]:
        """Give what plugins offer to check `of` with: ``"doctor"``, or a kind of contribution."""
        return [item for item in self._checks if item.of == of]

    def _failed(self, row: Plugin) -> bool:
        # A second package that claims a taken name is a row of its own; failures belong to the one in use.
        return row.name in self._failures and (bool(row.counts) or row.error is None)


_lock = threading.Lock()
_catalogue: Catalogue | None = None


def discover(refresh: bool = False) -> Catalogue:
    """Find the installed plugins, without importing any of them.

    Parameters
    ----------
    refresh
        Look again, after installing a plugin into a running session. Without it the first answer of the process stays.

    Returns
    -------
    Catalogue
        ``.plugins`` and ``.contributions(kind)``. A plugin that is broken is a row with its error; nothing is raised.
    """
    # One answer per process: what is installed does not change under it unless somebody says so.
    global _catalogue
    with _lock:
        if _catalogue is None or refresh:
            if refresh:
                importlib.invalidate_caches()
            _catalogue = _build(announced())
        return _catalogue


def _build(announcements: Iterable[Announcement]) -> Catalogue:
    """Read the announced manifests and put their contributions together, one claim per id."""
    failures: dict[str, str] = {}
    rows: list[Plugin] = []
    contributions: list[Contribution] = []
    checks: list[Check] = []
    taken: dict[str, str] = {}
    claims: dict[tuple[str, str, str], str] = {}
    for item in announcements:
        package, path, wrong = locate(item.value)
        manifest = _manifest.read(path) if path else _manifest.Manifest(faults=[wrong or "it has no manifest"])
        name = manifest.name or item.name
        faults = list(manifest.faults)
        entries = manifest.entries
        if name in taken:
            faults.append(f"the name '{name}' is taken by the package '{taken[name]}'; nothing of this one is used")
            entries = []
        elif OWN.get(name, package) != package:
            faults.append(
                f"the name '{name}' is reserved for scfm-lab's own '{OWN[name]}'; nothing of this one is used"
            )
            entries = []
        else:
            taken[name] = package
            checks.extend(Check(name, of, target, failures) for of, target in manifest.checks.items())
        counts: dict[str, int] = {}
        for kind, entry in entries:
            clash = _claim(kind, entry, claims)
            if clash:
                faults.append(clash)
                continue
            counts[kind] = counts.get(kind, 0) + 1
            contributions.append(Contribution(entry["id"], kind, name, entry, failures))
        rows.append(
            Plugin(
                name=name,
                version=item.version,
                package=package,
                distribution=item.distribution,
                manifest=path,
                faults=tuple(faults),
                warnings=tuple(manifest.notes),
                counts=counts,
            )
        )
    return Catalogue(tuple(rows), tuple(contributions), tuple(checks), failures)


def _claim(kind: str, entry: dict[str, Any], claims: dict[tuple[str, str, str], str]) -> str | None:
    """Claim what only one contribution may have; say who has it already, or ``None`` once it is claimed."""
    wanted = [(kind, key, entry[key]) for key in _manifest.KINDS[kind].unique]
    for claim in wanted:
        if claim in claims:
            return f"'{entry['id']}' gives {claim[1]} '{claim[2]}', which is taken by '{claims[claim]}'; it is left out"
    claims.update(dict.fromkeys(wanted, entry["id"]))
    return None


def _import(plugin: str, what: str, target: str, failures: dict[str, str]) -> Any:
    """Import ``"module:attribute"`` on behalf of a plugin, and remember where that fails for the plugin's row."""
    module, _, attribute = target.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    # A plugin's import can fail in any way at all, exiting included; whatever it does is this plugin's error.
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        failures[plugin] = f"{what} could not be loaded from {target}: {reason}"
        message = f"Plugin '{plugin}': {failures[plugin]}"
        raise PluginError(message) from error
    return found
