"""What a version must show before an alias points at it: scores above floor and parent, and other people's word."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError
from scfm_lab.evaluation.resampling import FEWEST_TO_RANK
from scfm_registry import audit, names, people, scores
from scfm_registry.reading import Reader

if TYPE_CHECKING:
    from scfm_registry.version import ModelVersion, Record

#: Tag of a model that holds the gate of an alias.
GATE = "scfm.gate"
_ABOVE = ("floor", "parent")


@dataclass(frozen=True)
class Gate:
    """What must hold before an alias points at a version.

    Parameters
    ----------
    metrics
        Recorded scores that must be better than what `above` names; ``"macro-F1"`` and ``"macro_f1"`` are one.
    above
        ``"floor"``: the whole interval, else the value, is better than the best parameter-free method's value.
        ``"parent"``: the value is better than the parent's on the same cells; a version without parent passes. A parent that knows
        no labels can have no score: where the fine-tuning trained no head alone on it either, it is the floor that is asked for.
    approvals
        How many people other than whoever registered it must have approved it.

    Examples
    --------
    >>> Gate(metrics=("macro_f1",), approvals=1).to_dict()
    {'metrics': ['macro_f1'], 'above': ['floor', 'parent'], 'approvals': 1}
    """

    metrics: tuple[str, ...] = ()
    above: tuple[str, ...] = _ABOVE
    approvals: int = 0

    def __post_init__(self) -> None:
        if not set(self.above) <= set(_ABOVE) or isinstance(self.metrics, str) or self.approvals < 0:
            message = f"A gate has metrics=('…',), above= some of {_ABOVE}, and approvals= a number from 0."
            raise ModelError(message)
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(map(scores.key, self.metrics))))

    def holds(self, other: Gate) -> bool:
        """Whether it asks for all that another one asks for."""
        within = set(other.metrics) <= set(self.metrics) and (not other.metrics or set(other.above) <= set(self.above))
        return within and other.approvals <= self.approvals

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class Gatekeeper(Reader):
    """What keeps the conditions of a promotion."""

    def set_gate(self, name: str, alias: str, gate: Gate | None) -> None:
        """Say what must hold before `alias` of the model `name` points at a version; ``None`` takes the gate away.

        A gate that asks for other people's word asks for as many before it is made looser: see :meth:`agree`.

        Raises
        ------
        ModelError
            It would be looser, and too few others have agreed.

        Examples
        --------
        >>> from scfm_registry import Gate, Registry
        >>> Registry().set_gate("starter", "trusted", Gate(approvals=1))
        """
        names.check_alias(alias)
        with self._place.locked():
            record = self._newest(name)
            self._check_agreed(name, alias, gate)
            if gate is not None:
                self._store.set_model_tag(name, f"{GATE}.{alias}", json.dumps(gate.to_dict(), sort_keys=True))
            elif self._store.model_tag(name, f"{GATE}.{alias}"):
                self._store.drop_model_tag(name, f"{GATE}.{alias}")
            self.note("gate", record, {"alias": alias, "gate": "none" if gate is None else json.dumps(gate.to_dict())})

    def agree(self, name: str, alias: str = names.CHAMPION) -> list[str]:
        """Give your word that somebody else may make the gate of an alias looser, once.

        Returns
        -------
        list of str
            Who has agreed since the gate was set.
        """
        names.check_alias(alias)
        with self._place.locked():
            self.note("agree", self._newest(name), {"alias": alias})
        return sorted(self._agreed(name, alias))

    def _newest(self, name: str) -> Record:
        return self._find(names.parse(self._versions(name)[0].reference))[1]

    def _agreed(self, name: str, alias: str) -> set[str]:
        said: set[str] = set()
        for entry in audit.read(self._store, name).entries:
            if entry["details"].get("alias") == alias and entry["action"] in ("gate", "agree"):
                said = said | {entry["who"]} if entry["action"] == "agree" else set()
        return said

    def _check_agreed(self, name: str, alias: str, gate: Gate | None) -> None:
        """Refuse a looser gate without as many other people's word as the one before asks for."""
        before = None
        with suppress(ModelError):  # one that cannot be read lets nobody through, and is set anew
            before = self.gate(name, alias)
        if before is None or not before.approvals or (gate is not None and gate.holds(before)):
            return
        need = before.approvals - len(self._agreed(name, alias) - {people.who(self._place)})
        if need > 0:
            message = (
                f"The gate of '{alias}' of {name} asks for other people's word, and so does making it looser; missing: {need} more "
                f"(scfm-lab models gate {name} --alias {alias} --agree). Nothing was changed."
            )
            raise ModelError(message)

    def gate(self, name: str, alias: str) -> Gate | None:
        """The gate of an alias, or ``None``.

        Raises
        ------
        ModelError
            What stands there is no gate: nothing is promoted until somebody sets it anew.
        """
        text = self._store.model_tag(names.check_name(name), f"{GATE}.{names.check_alias(alias)}")
        if not text:
            return None
        try:
            told = json.loads(text)
            return Gate(tuple(map(str, told["metrics"])), tuple(map(str, told["above"])), int(told["approvals"]))
        except (ValueError, KeyError, TypeError) as error:
            message = f"The gate of '{alias}' of {name} cannot be read (tag {GATE}.{alias}); set it anew."
            raise ModelError(message) from error

    def approve(self, reference: str, alias: str = names.CHAMPION, *, withdraw: bool = False) -> list[str]:
        """Give your word that a version may have an alias, or take it back.

        Parameters
        ----------
        reference
            Which version.
        alias
            For which alias.
        withdraw
            Take it back.

        Returns
        -------
        list of str
            Who has approved it now.

        Raises
        ------
        ModelError
            You registered the version yourself, or it is unknown.
        """
        names.check_alias(alias)
        with self._place.locked():
            found, record = self._find(names.parse(reference))
            me = people.who(self._place)
            if me == found.tags.get("scfm.registered_by") and not withdraw:
                message = (
                    f"{found.reference} was registered by you ({me}); somebody else must approve it for '{alias}'."
                )
                raise ModelError(message)
            self.note("withdraw" if withdraw else "approve", record, {"alias": alias})
        return approvers(self, found, alias)


def approvers(registry: Reader, found: ModelVersion, alias: str) -> list[str]:
    """Who, other than whoever registered it, has approved a version for an alias: what the audit trail tells."""
    said: dict[str, bool] = {}
    for entry in audit.about(registry._store, found.digest):  # noqa: SLF001 - the registry's own parts
        here = entry["reference"] == found.reference and entry["details"].get("alias") == alias
        if here and entry["action"] in ("approve", "withdraw"):
            said[entry["who"]] = entry["action"] == "approve"
    return sorted(who for who, yes in said.items() if yes and who != found.tags.get("scfm.registered_by"))


def missing(registry: Reader, found: ModelVersion, record: Record, alias: str, gate: Gate) -> list[str]:
    """What a version lacks to pass a gate, in words; nothing where it passes."""
    lacks = []
    if gate.metrics:
        own = _believed(registry, found, record)
        for metric in gate.metrics:
            lacks += _below(registry, found, [row for row in own if row["key"] == metric], metric, gate)
    said = approvers(registry, found, alias)
    if len(said) < gate.approvals:
        need = gate.approvals - len(said)
        whose = f"; {', '.join(said)} did" if said else ""
        lacks.append(
            f"{need} more of other people's word (scfm-lab models approve {found.reference} --alias {alias}{whose})"
        )
    return lacks


def _believed(registry: Reader, found: ModelVersion, record: Record) -> list[dict[str, Any]]:
    """Scores that a gate counts: what a file says of itself only where it was trained here."""
    from scfm_registry.keeping import ORIGIN

    rows = scores.of(registry, found, record)
    return [row for row in rows if row["source"] != scores.FINETUNING or found.origin == ORIGIN]


def _below(registry: Reader, found: ModelVersion, own: list[dict[str, Any]], metric: str, gate: Gate) -> list[str]:
    if not own:
        return [f"a recorded score '{metric}'"]
    unseen = [row for row in own if not scores.flagged(row)]
    if not unseen:
        return [f"a recorded score '{metric}' on cells that are not in its training record"]
    row = unseen[-1]
    sign = 1 if row.get("higher_is_better", True) else -1
    lacks = []
    value, without = _parents(registry, found, row) if "parent" in gate.above else (None, "")
    if "floor" in gate.above or without:
        said = f" ({without})" if without else ""
        if row.get("floor") is None:
            lacks.append(f"the floor of {metric}, which was not recorded{said}")
        elif isinstance(units := row.get("units"), int) and 0 < units < FEWEST_TO_RANK:
            lacks.append(f"{metric} above the floor over {FEWEST_TO_RANK} units or more: it is over {units}{said}")
        elif (gain := scores.lead(row)) <= 0:
            worst = row["floor"] + sign * gain
            lacks.append(
                f"{metric} above the floor: {worst:.3f} at the worse end is not better than {row['floor']:.3f}{said}"
            )
    if "parent" in gate.above and not without and found.tags.get("scfm.parent_digest"):
        if value is None:
            lacks.append(f"{metric} of the parent on the same cells, which was not recorded")
        elif sign * row["value"] <= sign * value:
            lacks.append(f"{metric} above the parent: {row['value']:.3f} is not better than {value:.3f}")
    return lacks


def floor_alone(registry: Reader, found: ModelVersion, record: Record, gate: Gate) -> list[str]:
    """Which scores a gate compares with the floor alone, though it asks for the parent as well, and why; in words."""
    if "parent" not in gate.above:
        return []
    told = []
    for metric in gate.metrics:
        rows = [row for row in _believed(registry, found, record) if row["key"] == metric and not scores.flagged(row)]
        if rows and (without := _parents(registry, found, rows[-1])[1]):
            told.append(f"{metric} was compared with the floor alone: {without}")
    return told


def _parents(registry: Reader, found: ModelVersion, row: dict[str, Any]) -> tuple[float | None, str]:
    """The parent's value of a score on the same cells, or why there can be none; neither where it was only not recorded."""
    if row.get("parent") is not None:
        return float(row["parent"]), ""
    parents = registry.with_digest(digest) if (digest := found.tags.get("scfm.parent_digest", "")) else []
    for parent in parents:
        item, record = registry._find(names.parse(parent.reference))  # noqa: SLF001 - the registry's own parts
        for other in reversed(_believed(registry, item, record)):
            same = other["key"] == row["key"] and other.get("data_digest") == row.get("data_digest")
            if same and not scores.flagged(other):
                return float(other["value"]), ""
    if parents and row["source"] == scores.FINETUNING and not any(item.tags.get("scfm.labels") for item in parents):
        return (
            None,
            f"{parents[0].reference}, which it was made from, knows no labels, and no head alone was trained on it",
        )
    return None, ""
