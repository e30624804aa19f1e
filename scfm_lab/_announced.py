"""Where manifests are: entry points of installed packages, and scfm-lab's own three packages.

Nothing here imports a plugin: a manifest is found by asking where its top-level package lies.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The entry-point group in which packages announce their manifest.
GROUP = "scfm_lab.manifest"
#: The project's own plugins. Their names are reserved, and their manifests are found without any installed metadata, so
#: that a checkout on PYTHONPATH is as complete as an installed wheel.
OWN = {"scfm": "scfm_lab", "scfm-registry": "scfm_registry", "scfm-widgets": "scfm_widgets"}
_DISTRIBUTION = "scfm-lab"


@dataclass(frozen=True)
class Announcement:
    """What is known before a manifest is opened: an entry point, or one of our own packages."""

    name: str
    value: str
    version: str
    distribution: str | None


def announced() -> list[Announcement]:
    """Collect own packages first, then entry points by distribution name, so that the result has one order."""
    found = {(item.name, item.value): item for item in _entry_points()}
    own = []
    for name, package in OWN.items():
        value = f"{package}:scfm.toml"
        item = found.pop((name, value), None)
        # Without metadata we are in a checkout; an own package that is not on the path is simply not there.
        if item is not None or _find(package):
            own.append(item or Announcement(name, value, _own_version(), None))
    return own + sorted(found.values(), key=lambda item: (item.distribution or "", item.name))


def _entry_points() -> Iterator[Announcement]:
    """Give the entry points of our group, whatever state other distributions' metadata is in."""
    seen: set[str] = set()
    # metadata.entry_points() fails as a whole when any one installed distribution has bad metadata; this does not, and
    # not parsing what cannot concern us is quicker.
    for distribution in metadata.distributions():
        try:
            text = distribution.read_text("entry_points.txt")
            if not text or GROUP not in text:
                continue
            name = str(distribution.name or "unnamed")
        except Exception:  # noqa: BLE001 - somebody else's damaged metadata must not stop us
            continue
        key = re.sub(r"[-_.]+", "-", name).lower()
        # The first on the path is the one that imports resolve to.
        if key in seen:
            continue
        seen.add(key)
        try:
            points = [point for point in distribution.entry_points if point.group == GROUP]
            version = str(distribution.version or "unknown")
        except Exception:  # noqa: BLE001 - it means to be a plugin, so that it is damaged shall be seen
            yield Announcement(name, "", "unknown", name)
            continue
        for point in points:
            yield Announcement(point.name, point.value, version, name)


def _own_version() -> str:
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        from scfm_lab import __version__

        return __version__


def _find(package: str) -> list[Path]:
    """Give the folders of a top-level package, without importing it; empty where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        return []
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def locate(value: str) -> tuple[str, Path | None, str | None]:
    """Resolve ``"package:file.toml"`` to (package, path, what is wrong)."""
    package, colon, file = (part.strip() for part in value.partition(":"))
    if not value:
        return "", None, "its installed metadata is damaged; install it again"
    wrong = f"its entry point is '{value}'; it must be \"package:file.toml\""
    if not colon or not file.endswith(".toml"):
        return package, None, wrong
    if not package.isidentifier():
        # find_spec on "a.b" imports "a"; only a top-level package can be looked at without running it.
        return package, None, f"{wrong} with a top-level package"
    parts = Path(file)
    if parts.is_absolute() or ".." in parts.parts:
        return package, None, f"{wrong} with a file inside the package"
    folders = _find(package)
    if not folders:
        return package, None, f"its package '{package}' is not installed"
    for folder in folders:
        if (folder / parts).is_file():
            return package, folder / parts, None
    return package, None, f"its manifest {file} is not in the package '{package}'"
