"""Changing versions: the part of a registry that promotes, deletes and brings back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError
from scfm_registry import names
from scfm_registry.gates import Gatekeeper
from scfm_registry.looking import UNKNOWN
from scfm_registry.names import CHAMPION

if TYPE_CHECKING:
    from scfm_registry.gates import Gate
    from scfm_registry.version import ModelVersion, Record, Versions

#: What `promote` is told when it is to expect what was last seen here, or to compare nothing.
AS_SEEN, ANYTHING = "as seen", "anything"


class Changer(Gatekeeper):
    """What changes which versions people see, and under which alias."""

    def promote(
        self, reference: str, alias: str = CHAMPION, *, expect: str | int | None = AS_SEEN, gate: Gate | None = None
    ) -> ModelVersion:
        """Point an alias at a version.

        Parameters
        ----------
        reference
            Which version.
        alias
            A lower-case word; ``champion`` is what ``models:/name`` means.
        expect
            The version that the alias points at as far as you know (its number, ``name/3`` or digest; ``None``: that nobody
            has it). If it does not, nothing is changed: two people cannot overwrite each other unseen. Comparing and setting
            happen under a lock; on a server, which MLflow's own clients pass by, under a claim
            (:mod:`scfm_registry.store.claims` says what it promises). By default it is what this registry object has last shown
            you (``get``, ``versions``, ``search``, ``holder``, a promotion, or a refusal of one), and where it has shown nothing,
            whoever has the alias when you call. ``"anything"``: overwrite whatever is there.
        gate
            What must hold as well, beside what :meth:`set_gate` has asked for this alias.

        Returns
        -------
        ModelVersion
            The version with its new alias; its ``instead_of`` says who lost it.

        Raises
        ------
        ModelError
            The version is unknown or retracted, the alias breaks the rule, it points elsewhere than expected, or a gate is not
            passed; then the message says what is missing.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> Registry().promote("starter/1", "candidate", expect=None).aliases
        ('candidate', 'champion')
        """
        names.check_alias(alias)
        meant, _ = self._find(names.parse(reference))
        wanted = self._as_seen(meant.name, alias) if expect == AS_SEEN else expect
        with self._store.exclusive(f"{meant.name}.{alias}") as sure:
            # Whether it may have the alias is looked at once the others had their turn: what was retracted meanwhile counts.
            found, record = self._find(names.parse(meant.reference))
            remarks = self._check_may_have(alias, found, record, gate)
            holder = self._store.record_by_alias(found.name, alias)
            there = expect == AS_SEEN and holder is not None and holder.version == found.version
            if wanted != ANYTHING and not there and not _is_expected(holder, wanted):
                self._holders.told(found.name, alias, holder.version if holder else None)
                now = f"{holder.name}/{holder.version}" if holder else "no version"
                other = "nobody" if wanted is None else _shown(found.name, wanted)
                how = (
                    f"; when it was last looked at here, {other} had it"
                    if expect == AS_SEEN
                    else f", where {other} was expected to have it"
                )
                message = (
                    f"'{alias}' of {found.name} points at {now}{how}; nothing was changed. Look at what was promoted meanwhile, "
                    "then decide again."
                )
                raise ModelError(message)
            sure()
            self._store.set_alias(found.name, alias, found.version)
            before = f"{holder.name}/{holder.version}" if holder else ""
            told = {"remarks": remarks} if remarks else {}
            self.note("promote", record, {"alias": alias, "instead_of": before, **told})
        lost = holder.reference if holder and holder.version != found.version else ""
        return replace(self.get(found.reference), instead_of=lost, remarks=tuple(remarks))

    def _as_seen(self, name: str, alias: str) -> str | int | None:
        """What a promotion expects that is told nothing."""
        seen = self._holders.of(name, alias)
        if seen != UNKNOWN:
            return seen
        now = self._store.record_by_alias(name, alias)
        return now.version if now else None

    def holder(self, name: str, alias: str = CHAMPION) -> str | None:
        """The version (``name/3``) that an alias points at: what :meth:`promote` takes as `expect`; ``None`` where nobody has it."""
        record = self._store.record_by_alias(names.check_name(name), names.check_alias(alias))
        self._holders.told(name, alias, record.version if record else None)
        return record.reference if record else None

    def _check_may_have(self, alias: str, found: ModelVersion, record: Record, gate: Gate | None) -> list[str]:
        """Refuse a version that was retracted, or lacks what a gate asks for; what has to be said of one that passes."""
        from scfm_registry import gates, retracting

        why = retracting.reason(self, found)
        if why:
            message = f"{found.reference} was retracted ({why}); it is not promoted."
            raise ModelError(message)
        asked = [item for item in (self.gate(found.name, alias), gate) if item is not None]
        lacks = list(dict.fromkeys(word for item in asked for word in gates.missing(self, found, record, alias, item)))
        if lacks:
            message = f"{found.reference} does not pass the gate of '{alias}'; missing: {'; '.join(lacks)}. Nothing was changed."
            raise ModelError(message)
        return list(dict.fromkeys(word for item in asked for word in gates.floor_alone(self, found, record, item)))

    def delete(self, reference: str, *, because: str = "", force: bool = False) -> ModelVersion:
        """Put a version into the trash: nothing finds it any more, and :meth:`restore` brings it back.

        Parameters
        ----------
        reference
            Which version.
        because
            One line that says why.
        force
            Also if it has aliases, which it loses.

        Raises
        ------
        ModelError
            The version is unknown, comes with scfm-lab, or has an alias.
        """
        from scfm_registry import trash

        asked = names.parse(reference)
        if asked.version is None and asked.alias is None:
            message = f"'{reference}' does not say which version; write its number, as in '{asked.name}/1'."
            raise ModelError(message)
        with self._place.locked():
            found, record = self._find(asked)
            gone = trash.delete(self._store, found, record, because, force=force)
            for alias in found.aliases:
                self._holders.told(found.name, alias, None)
            self.note("delete", record, {"because": because, "aliases": list(found.aliases)})
            return gone

    def trash(self) -> Versions:
        """List the deleted versions; tag ``scfm.trashed`` says since when, ``scfm.trashed_because`` why."""
        from scfm_registry import trash

        return trash.listed(self._store)

    def restore(self, reference: str) -> ModelVersion:
        """Take a version (``name/3``) out of the trash. Aliases that it had stay where they are now.

        Raises
        ------
        ModelError
            It is not in the trash; the message lists what is.
        """
        from scfm_registry import trash

        with self._place.locked():
            record = trash.restore(self._store, reference)
            self.note("restore", record)
        return self.get(f"{record.name}/{record.version}")

    def purge(self, reference: str) -> str:
        """Delete a version (``name/3``) that is in the trash, and its files, for good; also this machine's copy of a server's.

        Returns
        -------
        str
            Why its files stay where they are, such as a server that does not let you delete them; empty where they are gone.

        Raises
        ------
        ModelError
            It is not in the trash; the message lists what is.
        """
        from scfm_registry import trash

        with self._place.locked():
            record, stays = trash.purge(self._store, reference)
            self.note("purge", record, {"files_stay": stays} if stays else {})
        return stays


def _is_expected(holder: Record | None, expect: str | int | None) -> bool:
    if holder is None or expect is None:
        return holder is None and expect is None
    return str(expect) in (str(holder.version), f"{holder.name}/{holder.version}", holder.tags.get("scfm.digest"))


def _shown(name: str, expect: str | int | None) -> str:
    if expect is None:
        return "no version"
    return f"{name}/{expect}" if str(expect).isdigit() else str(expect)
