"""What memory a model will take, before anybody has run it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scfm_lab.models.contract import Model

_MIB = 2**20
#: What a process takes that has Python, PyTorch, AnnData and some cells in it, and no model yet, in MiB: 500 to 600 were measured,
#: by how much of the libraries' files a system counts.
_PROCESS = 680
#: Tokens of a long cell, for models that take any number.
_LONG = 2_048
#: What allocators keep for later.
_MARGIN = 1.25


def peak_mib(model: Model) -> int:
    """Largest memory, in MiB, of a process that opens a model and embeds cells with it on a CPU.

    The whole process counts, Python and PyTorch with it: that is what :meth:`scfm_registry.Registry.measure` measures, and what has
    to be free where the model is to run. ``python benchmarks/registry_memory.py`` puts both side by side for every family.

    Parameters
    ----------
    model
        Opened: its tensors and tables are counted, and its family says what a batch takes.
    """
    from scfm_lab.inference.engine import TOKENS_PER_BATCH

    longest = min(model.spec.max_length or _LONG, _LONG)
    batch = model.batch_bytes(max(TOKENS_PER_BATCH["cpu"], longest), longest)
    # Weights may be there twice: as the network has them, and as they were read from the file.
    weights = model.weight_bytes() + model.opening_bytes()
    return math.ceil(_PROCESS + (weights + _MARGIN * (batch + model.base_bytes())) / _MIB)
