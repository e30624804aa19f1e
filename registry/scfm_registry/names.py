"""What models and aliases may be called, and how a reference to a version is written."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scfm_lab.errors import ModelError

#: The prefix under which the registry answers as a model source.
PREFIX = "models:"
#: The alias that marks the version to use when a reference names none.
CHAMPION = "champion"

_WORD = re.compile(r"[a-z][a-z0-9-]{0,62}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
#: MLflow gives these a meaning of its own.
_RESERVED = re.compile(r"latest|v[0-9]+")


@dataclass(frozen=True)
class Reference:
    """A version as somebody wrote it: by number, by alias, or by the model's name alone."""

    name: str
    version: int | None = None
    alias: str | None = None
    digest: str | None = None
    """Of the version's files: whatever it is called, and also in the trash."""

    def __str__(self) -> str:
        if self.digest is not None:
            return self.digest
        if self.version is not None:
            return f"{self.name}/{self.version}"
        return f"{self.name}@{self.alias}" if self.alias else self.name


def check_name(name: str) -> str:
    """Return `name` if a model may be called so.

    Raises
    ------
    ModelError
        It is not a lower-case letter followed by at most 62 lower-case letters, digits or hyphens.
    """
    if not isinstance(name, str) or not _WORD.fullmatch(name):
        message = (
            f"{_shown(name)} cannot be a model's name: use a lower-case letter, then at most 62 lower-case letters, "
            "digits or hyphens, such as 'scgpt-human'."
        )
        raise ModelError(message)
    return name


def check_alias(alias: str) -> str:
    """Return `alias` if a version may have it.

    Raises
    ------
    ModelError
        It breaks the rule for names, or MLflow reserves it (``latest``, ``v1``).
    """
    if not isinstance(alias, str) or not _WORD.fullmatch(alias):
        message = (
            f"{_shown(alias)} cannot be an alias: use a lower-case letter, then at most 62 lower-case letters, digits "
            "or hyphens, such as 'champion'."
        )
        raise ModelError(message)
    if _RESERVED.fullmatch(alias):
        message = f"The alias '{alias}' is reserved; choose another, such as 'champion' or 'candidate'."
        raise ModelError(message)
    return alias


def parse(reference: str | Reference) -> Reference:
    """Read ``name``, ``name/3``, ``name@alias`` or ``sha256:…``, each with or without ``models:/`` before it.

    Raises
    ------
    ModelError
        The text has none of these forms.
    """
    if isinstance(reference, Reference):
        return reference
    if not isinstance(reference, str):
        message = f"A model is named by a text such as 'starter@champion', not by {type(reference).__name__}."
        raise ModelError(message)
    text = reference.removeprefix(PREFIX).lstrip("/")
    if _DIGEST.fullmatch(text):
        return Reference("", digest=text)
    name, at, alias = text.partition("@")
    if at:
        return Reference(check_name(name), alias=check_alias(alias))
    name, slash, number = text.partition("/")
    if not slash:
        return Reference(check_name(name))
    if not _NUMBER.fullmatch(number):
        message = (
            f"{_shown(reference)} names no version: write 'models:/NAME/3' for a number, 'models:/NAME@alias' for an "
            "alias."
        )
        raise ModelError(message)
    return Reference(check_name(name), version=int(number))


def _shown(value: object) -> str:
    """Quote a rejected value so that control characters in it stay visible and harmless, and long ones short."""
    text = ascii(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 90 else f"{text[:80]}…'"
