"""The models that come with scfm-lab, as versions of the registry."""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError, PluginError
from scfm_lab.plugins import discover
from scfm_registry import estimating, files, importing, manifest, version
from scfm_registry.names import CHAMPION
from scfm_registry.version import Versions

if TYPE_CHECKING:
    from scfm_lab.plugins import Contribution
    from scfm_registry.registry import Registry

#: Value of ``scfm.origin`` for these.
ORIGIN = "built-in"


def shipped() -> dict[str, tuple[Contribution, Path]]:
    """The models of scfm-lab's own plugin whose weights come with it: name → contribution and folder."""
    found: dict[str, tuple[Contribution, Path]] = {}
    own = {row.name for row in discover().plugins if row.own}
    for item in discover().contributions("models"):
        weights = item.data.get("weights")
        if item.plugin not in own or not weights:
            continue
        spec = find_spec(item.target.partition(":")[0].partition(".")[0])
        for root in (spec.submodule_search_locations or []) if spec else []:
            if (Path(root) / weights).is_dir():
                found[item.name] = (item, Path(root) / weights)
                break
    return found


def ensure(registry: Registry) -> Versions:
    """Register those that are missing, and make them champions of their names.

    A model that does not open is left out with a warning. The champion's alias follows a new built-in version as long as it points at a built-in one: what a user has promoted stays.
    """
    found = Versions()
    for name, (item, folder) in shipped().items():
        try:
            found.append(_ensure(registry, name, item, folder))
        except (ModelError, PluginError) as error:
            # A damaged installation costs the model it damages, and not the registry.
            warnings.warn(f"The built-in model '{name}' could not be registered: {error}", RuntimeWarning, stacklevel=4)
    return found


def _ensure(registry: Registry, name: str, item: Contribution, folder: Path) -> version.ModelVersion:
    known = registry.by_digest(name, manifest.describe(folder, item.id).digest)
    if known is None:
        with registry.writing(), files.workshop(registry.scratch) as private:
            # Another process may have been quicker while this one waited for the lock.
            known = registry.by_digest(name, manifest.describe(folder, item.id).digest)
            if known is None:
                wanted, _ = importing.listing(folder)
                importing.copy({str(relative): folder / relative for relative in wanted}, private, folder)
                model = importing.open_copy(item, private, folder)
                found = version.tags(
                    model.spec,
                    kind="baseline" if item.data.get("parameter_free") else "pretrained",
                    family=item.id,
                    origin=ORIGIN,
                    weight_bytes=importing.weight_bytes(private),
                    peak_mib=estimating.peak_mib(model),
                    tasks=item.data.get("tasks", ()),
                    parameter_free=bool(item.data.get("parameter_free")),
                )
                found["scfm.weights"] = model.digest
                known = registry.add_files(name, private, item.id, found, importing.card_of(private))
                _promote(registry, known)
    if not known.aliases:
        _promote(registry, known, late=True)
    return registry.get(known.reference)


def _promote(registry: Registry, known: version.ModelVersion, *, late: bool = False) -> None:
    with registry.writing():
        others = registry.versions(known.name)
        holder = next((other for other in others if CHAMPION in other.aliases), None)
        newer = any(other.origin == ORIGIN and other.version > known.version for other in others)
        # Where people have set a gate, they promote.
        gated = registry.gate(known.name, CHAMPION) is not None
        if not newer and not gated and (holder is None or (holder.origin == ORIGIN and holder.version < known.version)):
            if late:
                # The process that registered it was ended before it promoted it, and perhaps before it wrote its line.
                registry.note_missing(known)
            registry.promote(known.reference, CHAMPION)
