"""A version made with cells whose donors did not agree to sharing does not leave the lab.

Tag ``scfm.consent`` says so: ``no-sharing`` blocks every way out (bundles, mirrors), and whatever else stands there is no leave
to share. Only a version without the tag, or with ``open``, goes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from scfm_registry.version import ModelVersion

#: The tag, and the one value of it that lets a version out.
TAG, OPEN = "scfm.consent", "open"


def check_may_leave(found: ModelVersion) -> None:
    """Refuse to let a version out whose tag forbids it.

    Raises
    ------
    ModelError
        Its tag says anything but ``open``.
    """
    said = found.tags.get(TAG, OPEN)
    if said != OPEN:
        raise ModelError(
            f"{found.reference} does not leave this registry: its tag {TAG} says {said[:80]!r}, since it was made with cells whose "
            "donors did not agree to sharing. Whoever answers for that data can change the tag."
        )
