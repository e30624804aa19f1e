"""What a version's tags say of memory and speed, as far as it can be true.

Whoever may write tags can write anything into them. A number that no machine has, or a peak that is smaller than the weights
could ever be, counts as not said; the evidence is the run that the tags name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEYS = {"mem": "peak_mib", "speed": "best_cpm"}
#: 16 TiB of memory, and a billion cells a minute.
_MOST = {"mem": 2**24, "speed": 10**9}
#: No other number of a measurement is larger; a database may keep infinity as the largest that it has.
_LARGEST = 10**12
#: Weights take at least a byte for each four of float32.
_SMALLEST = 4
DEVICES = ("cpu", "cuda", "mps")


def number(tags: Mapping[str, str], what: str, device: str) -> int | None:
    """Peak memory in MiB (`what` is ``"mem"``) or best cells per minute (``"speed"``) on a device; ``None`` where not said.

    Examples
    --------
    >>> number({"scfm.mem.cpu.peak_mib": "412"}, "mem", "cpu")
    412
    >>> number({"scfm.speed.cuda.best_cpm": "1e99"}, "speed", "cuda") is None
    True
    """
    from scfm_registry import version

    value = version.number(tags.get(f"scfm.{what}.{device}.{_KEYS[what]}"))
    if value is None or not 0 < value <= _MOST[what]:
        return None
    weights = version.number(tags.get("scfm.weight_bytes")) or 0
    if what == "mem" and value * 2**20 < weights // _SMALLEST:
        return None
    return value


def believable(tags: Mapping[str, str]) -> dict[str, str]:
    """All tags about hardware, without ``scfm.``; those of a number that cannot be are left out, with what hangs on it."""
    prefixes = ("scfm.device.", "scfm.dtype.", "scfm.mem.", "scfm.fits.", "scfm.speed.")
    found = {key: value for key, value in sorted(tags.items()) if key.startswith(prefixes)}
    for device in DEVICES:
        for what, hanging in (
            ("mem", (f"scfm.mem.{device}.", f"scfm.fits.{device}.")),
            ("speed", (f"scfm.speed.{device}.",)),
        ):
            if number(tags, what, device) is None:
                found = {key: value for key, value in found.items() if not key.startswith(hanging)}
    return {key.removeprefix("scfm."): value for key, value in found.items()}


def can_be(metrics: Mapping[str, Any]) -> bool:
    """Whether a measurement's numbers can be true, as for :func:`check_measured`.

    Examples
    --------
    >>> can_be({"cells_per_minute": 5200.0}), can_be({"cells_per_minute": 1e99}), can_be({"peak_mib": -5.0})
    (True, False, False)
    """
    try:
        check_measured(metrics, "")
    except ModelError:
        return False
    return True


def check_measured(metrics: Mapping[str, Any], label: str) -> None:
    """Refuse a measurement with a number in it that cannot be.

    Raises
    ------
    ModelError
        One is not finite, negative, or larger than any machine's.
    """
    limits = {"peak_mib": _MOST["mem"], "cells_per_minute": _MOST["speed"], "cells_per_minute_best": _MOST["speed"]}
    for key, value in metrics.items():
        fine = (
            isinstance(value, (int, float)) and math.isfinite(value) and (value >= 0 or key.startswith("worst_cosine"))
        )
        if not fine or value > limits.get(key, _LARGEST):
            message = (
                f"The measurement of {label} says {key} = {str(value)[:40]}, which cannot be; it was not recorded."
            )
            raise ModelError(message)
