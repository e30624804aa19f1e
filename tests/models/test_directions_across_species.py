"""A direction of one species is carried into another by one model that reads both; how cells are sampled is not what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


def test_a_direction_of_human_cells_is_carried_into_cells_of_the_mouse(
    every_opened: Callable[[str], Any], few: AnnData
) -> None:
    model = every_opened("uce")
    few.obs["drug"] = np.where(np.arange(few.n_obs) % 2, "a", "none")
    mouse = few.copy()
    mouse.var_names = [name.title() for name in mouse.var_names]
    mouse.var = mouse.var[[]]

    def signature(cells: AnnData, **options: Any) -> Any:
        given = {"sample_size": 32, **options}
        asked = {"treatment_key": "drug", "control": "none", "progress": False}
        return sl.drug_signature(cells, model, options=given, **asked)

    human = signature(few, species="human")
    there = signature(mouse, species="mouse")
    assert there.provenance["options_of_cells"] == ["species"]
    assert np.isfinite(sl.transfer_signature(human, into=there, n_random=5).table["cosine"].item())
    with pytest.raises(DataError, match="what differs: options"):
        sl.transfer_signature(human, into=signature(mouse, species="mouse", sample_size=16))
