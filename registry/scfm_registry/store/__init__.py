"""Where versions are kept. Only this package imports MLflow; `facade` is what the rest of the registry speaks to."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from scfm_registry.store.facade import Store
    from scfm_registry.store.place import Place


def opened(place: Place) -> Store:
    """Open what keeps the versions of a place: MLflow, or the reading half of it where the place is a mirror."""
    if place.read_only:
        from scfm_registry.store.mirror import Mirror

        return cast("Store", Mirror(place))
    from scfm_registry.store.facade import Store

    return Store(place)
