"""What people say of a version: who answers for it, what for, and what the donors of its data agreed to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError, did_you_mean
from scfm_registry import names
from scfm_registry.reading import Reader
from scfm_registry.store.words import Denied, tell_denied

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scfm_registry.version import ModelVersion, Record

#: What ``scfm.consent`` can say. Only ``open`` lets a version out of the registry.
CONSENT = ("open", "no-sharing", "patient-data")
#: What can be said, and what it is.
FIELDS = {
    "owner": "who answers for it",
    "project": "what it was made for",
    "consent": "what the donors of its data agreed to",
    "data": "what it was trained on",
    "use": "what it is meant for",
    "limits": "what it should not be used for",
    "citation": "what to cite",
}
_LONGEST = 2_000


class Annotator(Reader):
    """What puts people's words beside a version."""

    def annotate(
        self,
        reference: str,
        *,
        owner: str | None = None,
        project: str | None = None,
        consent: str | None = None,
        data: str | None = None,
        use: str | None = None,
        limits: str | None = None,
        citation: str | None = None,
    ) -> ModelVersion:
        """Say something of a version: it stands in its card, in lists, and is found by search. An empty text takes it away.

        Parameters
        ----------
        reference
            Which version.
        owner
            Who answers for it; at first whoever registered it.
        project
            What it was made for; ``registry.search(text=…)`` finds it.
        consent
            ``"open"``, ``"no-sharing"`` or ``"patient-data"``: all but ``"open"`` block export. Versions that were made from it,
            of whose consent nobody has said anything, are told the same.
        data, use, limits, citation
            Lines of its card: what it was trained on, what it is meant for, what it should not be used for, what to cite.

        Raises
        ------
        ModelError
            The version is unknown, or a value is no line of text, or not one of the possible ones.

        Examples
        --------
        >>> from scfm_registry import Registry
        >>> registry = Registry()
        >>> registry.annotate("starter/1", project="atlas", limits="blood only").project
        'atlas'
        """
        given = {"owner": owner, "project": project, "consent": consent, "data": data, "use": use, "limits": limits}
        said = {key: value for key, value in {**given, "citation": citation}.items() if value is not None}
        for key, value in said.items():
            check(key, value)
        with self._place.locked():
            found, record = self._find(names.parse(reference))
            if not said:
                return found
            self._store.set_tags(record, {f"scfm.{key}": value for key, value in said.items() if value})
            gone = [f"scfm.{key}" for key, value in said.items() if not value and f"scfm.{key}" in record.tags]
            self._store.drop_tags(record, gone)
            before = {key: record.tags.get(f"scfm.{key}", "") for key in said}
            self.note(
                "annotate", record, {key: value or "nothing" for key, value in said.items() if value != before[key]}
            )
            if consent:
                self.hand_down(found, consent)
        return self.get(found.reference)

    def hand_down(self, found: ModelVersion, consent: str) -> None:
        """Tell versions made from one, of whose consent nobody has said anything, what is said of it; under the registry's lock."""
        denied = []
        for item in self.family_of(found.digest):
            if not item.tags.get("scfm.consent") and item.reference != found.reference:
                try:
                    self._store.set_tags(item, {"scfm.consent": consent})
                except Denied:
                    denied.append(item.reference)
                    continue
                self.note("annotate", item, {"consent": consent, "because": f"made from {found.reference}"})
        tell_denied(
            "told of the consent", denied, "It counts for them all the same when they are to leave the registry."
        )


def inherited(
    registry: Reader,
    tags: Mapping[str, str],
    digest: str,
    among: Mapping[tuple[str, str], list[Record]] | None = None,
) -> dict[str, str]:
    """What a version takes over when it is made: what is said of the donors of its copies and of what it was made from.

    Of copies the strictest word stays, whatever is said now; of what it was made from only where nothing is.

    Parameters
    ----------
    registry
        Where it comes in.
    tags
        What is said of it.
    digest
        Of its files.
    among
        As in :meth:`scfm_registry.reading.Reader.copies_of`.
    """
    known = tags.get("scfm.consent", "")
    copies = strictest(registry.copies_of({**tags, "scfm.digest": digest}, among, aliases=False))
    if known:
        return {"scfm.consent": copies} if tells(known, copies) else {}
    said = copies or strictest(registry.line_of({"scfm.digest": tags.get("scfm.parent_digest", "")}, among=among))
    return {"scfm.consent": said} if said else {}


def strictest(records: Iterable[Record]) -> str:
    """The strictest that is said of the donors of versions; empty where nothing is said."""
    said = {item.tags.get("scfm.consent", "") for item in records} - {""}
    return next(iter(sorted(said - {"open"}) or sorted(said)), "")


def tells(known: str, consent: str) -> bool:
    """Whether a word about the donors is to be put in the place of one that is known: of two the stricter stays."""
    return bool(consent) and consent != known and known in ("", "open")


def check(key: str, value: str) -> str:
    """Return `value` if it can stand in the field `key`.

    Raises
    ------
    ModelError
        It is no line of printable characters, or for ``consent`` not one of :data:`CONSENT`.
    """
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
        message = f"'{key}' takes one line of at most {_LONGEST:,} printable characters: {FIELDS.get(key, 'a text')}."
        raise ModelError(message)
    if key == "consent" and value and value not in CONSENT:
        message = f"consent={value!r} is not known; it is {', '.join(CONSENT)}.{did_you_mean(value, CONSENT)}"
        raise ModelError(message)
    return value


def consented(consent: str | None) -> dict[str, str]:
    """The tag with what the donors agreed to, to be there together with a version; none where nothing is said.

    Raises
    ------
    ModelError
        It is not one of :data:`CONSENT`.
    """
    return {"scfm.consent": check("consent", consent)} if consent else {}
