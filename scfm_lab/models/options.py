"""The options of a family: what a user gives, completed and checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from scfm_lab.models.spec import ModelSpec


# Whole numbers beyond are none to numpy.
_LARGEST = 2**63


def as_given(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of a user's options.

    Raises
    ------
    ModelError
        If they are no names and values.
    """
    if options is not None and not isinstance(options, Mapping):
        raise ModelError(f"options= takes names and values, such as {{'name': value}}; this is {options!r}.")
    return dict(options or {})


class TakesOptions:
    """The part of :class:`~scfm_lab.models.contract.Model` that reads its options (``spec.options``)."""

    spec: ModelSpec

    def check_options(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        """The family's options, completed by their defaults.

        Raises
        ------
        ModelError
            If an option is unknown or of the wrong type.
        """
        given = as_given(options)
        full = {name: option.default for name, option in self.spec.options.items()}
        for name, value in given.items():
            option = self.spec.options.get(name)
            if option is None:
                known = ", ".join(self.spec.options) or "none"
                raise ModelError(
                    f"{self.spec.name} has no option {name!r}; its options: {known}."
                    + did_you_mean(name, self.spec.options)
                )
            if option.choices and value not in option.choices:
                raise ModelError(f"Option {name!r} must be one of {option.choices}, not {value!r}.")
            full[name] = self._option(name, option, value)
        return full

    @staticmethod
    def _option(name: str, option: Any, value: Any) -> Any:
        """A value of the option's type; text is no truth value, and nothing is cut to a whole number."""
        if value is None and (option.optional or option.default is None):
            return None
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        fits = {
            bool: isinstance(value, (bool, np.bool_)),
            int: number and abs(value) < _LARGEST and int(value) == value,
            float: number and (not isinstance(value, int) or abs(value) < _LARGEST),
            str: isinstance(value, str),
        }
        if option.type not in fits:
            return value
        if not fits[option.type]:
            kind = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[option.type]
            raise ModelError(f"Option {name!r} must be {kind}, not {value!r}.")
        return option.type(value)
