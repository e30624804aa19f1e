"""A version made with cells whose donors did not agree to sharing does not leave the lab.

Tag ``scfm.consent`` says so: ``no-sharing`` blocks every way out (bundles, mirrors), and whatever else stands there is no leave
to share. Only a version without the tag, or with ``open``, goes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError
from scfm_registry import version

if TYPE_CHECKING:
    from scfm_registry.reading import Reader
    from scfm_registry.version import ModelVersion

#: The tag, and the one value of it that lets a version out.
TAG, OPEN = "scfm.consent", "open"


def check_may_leave(registry: Reader, found: ModelVersion) -> None:
    """Refuse to let a version out where a tag forbids it: its own, that of a copy, or of what they were made from.

    The tag says something of the weights, and the same weights can be here under several names, with other files beside them,
    also in the trash: the strictest word counts.

    Raises
    ------
    ModelError
        A tag says anything but ``open``.
    """
    line = registry.line_of(found.tags)
    # Its own word first, since that is the one that whoever asks has before them.
    for item in sorted(line, key=lambda item: item.reference != found.reference):
        said = item.tags.get(TAG, OPEN)
        if said == OPEN:
            continue
        copy = item.reference != found.reference and version.marks(item.tags) & version.marks(found.tags)
        kept = found.reference if copy else item.reference
        same = "files" if item.tags["scfm.digest"] == found.digest else "weights"
        whose = f"the tag {TAG} of {item.reference}, which has the same {same}," if copy else f"its tag {TAG}"
        raise ModelError(
            f"{kept} does not leave this registry: {whose} says {said[:80]!r}, since it was made with cells whose "
            "donors did not agree to sharing. Whoever answers for that data can change the tag."
        )
