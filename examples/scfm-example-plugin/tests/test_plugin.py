"""The proof of the plugin: both checks that scfm-lab offers to authors."""

from __future__ import annotations

from scfm_lab.testing import check_model, check_panel


def test_the_model_keeps_the_contract():
    """Every check of a model passes."""
    assert check_model("example.modules").passed


def test_the_panel_can_be_mounted():
    """Every check of a panel passes."""
    assert check_panel("example.profile").passed
