"""Puts the tutorials and the server's recipe into the wheel, where `scfm-lab lab` and `scfm-lab registry serve` find them.

Not into an editable install: there they would make a second, empty package in site-packages that hides the real one, and the
commands find the checkout's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Tutorials(BuildHookInterface):
    """What the wheel holds beside the packages."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the folders to a wheel of files; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"][str(Path(self.root) / "tutorials")] = "scfm_lab/tutorials"
            build_data["force_include"][str(Path(self.root) / "registry/server")] = "scfm_registry/server/recipe"
