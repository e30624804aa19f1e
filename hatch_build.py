"""Puts the tutorials into the wheel, where `scfm-lab lab` finds them.

Not into an editable install: there they would make a second, empty `scfm_lab` in site-packages that hides the real one, and
the command finds the checkout's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Tutorials(BuildHookInterface):
    """The wheel's tutorials."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folder to a wheel of files; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"][str(Path(self.root) / "tutorials")] = "scfm_lab/tutorials"
