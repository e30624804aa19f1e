"""Response curves: what a gene's answers are at a few doses, so that the browser can follow a slider at once.

They are the curves of :func:`scfm_lab.response_curves`, over all cells and made of exact answers, which are kept: what people ask
for first has then been computed already. Between two doses the browser interpolates as Python does (``src/pchip.ts``), marks what
it shows as being computed, and replaces it by the exact answer when that comes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Doses that are computed ahead, in this order: dose 1 is the cells as they are, then what people ask for first. They are those
#: of :data:`scfm_lab.tasks.response_curves.DOSES`.
AHEAD = (1.0, 0.0, 2.0, 0.5, 1.5, 0.25)
#: Genes whose curves are kept.
MOST_CURVES = 6
#: Exact answers that are kept, and the most bytes of vectors that one of them may hold.
_KEPT = 8
_MOST_BYTES = 16_000_000

Key = tuple[frozenset[tuple[str, float]], int]


def key_of(doses: Mapping[str, float], draws: int) -> Key:
    """By what an answer is known: the doses that change anything, and the draws where chance plays a part."""
    changed = frozenset((gene, dose) for gene, dose in doses.items() if dose != 1.0)
    random = any(dose != 0.0 for _, dose in changed)
    return changed, draws if random else 1


class Answers:
    """The last exact answers for one set of cells, model, groups and plane."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Key, Any] = OrderedDict()

    def get(self, key: Key) -> Any:
        """Give an answer, or ``None``."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def of_several(self, draws: int) -> list[tuple[dict[str, float], Any]]:
        """Doses and answers in which several genes change, with so many draws where chance plays a part; the newest first."""
        pairs = [(dict(key[0]), key, result) for key, result in reversed(self._kept.items()) if len(key[0]) > 1]
        return [(doses, result) for doses, key, result in pairs if key == key_of(doses, draws)]

    def put(self, key: Key, result: Any) -> None:
        """Keep an answer, unless it is large."""
        if result.perturbed.nbytes + result.baseline.nbytes > _MOST_BYTES:
            return
        self._kept[key] = result
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)


@dataclass
class Curve:
    """One gene's answers while the other genes are unchanged.

    Attributes
    ----------
    gene
        The gene.
    points
        By dose: the described perturbation and the packed places after.
    """

    gene: str
    points: dict[float, tuple[dict[str, Any], bytes]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every dose is there."""
        return len(self.points) == len(AHEAD)


def pack(curves: Iterable[Curve]) -> tuple[list[dict[str, Any]], bytes]:
    """Give curves as the browser reads them: plain values, and the places of all points one after the other."""
    told, parts, at = [], [], 0
    for curve in curves:
        points = []
        for dose, (described, after) in sorted(curve.points.items()):
            points.append({"dose": dose, "perturbation": described, "offset": at, "length": len(after)})
            parts.append(after)
            at += len(after)
        told.append({"gene": curve.gene, "points": points})
    return told, b"".join(parts)


class Unless:
    """A cancel event that is not heeded while what is computed is just what is waited for.

    Parameters
    ----------
    cancel
        The event.
    wanted
        Says whether the present piece of work is waited for.
    """

    def __init__(self, cancel: Any, wanted: Any) -> None:
        self._cancel, self._wanted = cancel, wanted

    def is_set(self) -> bool:
        """Whether to stop."""
        return bool(self._cancel.is_set()) and not self._wanted()
