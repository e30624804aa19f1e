"""Puts the tutorials into the wheel, and only there.

`force-include` would put them into editable installs too, as a folder ``scfm_lab/tutorials`` in site-packages: a namespace
package that Python finds before the checkout's own ``scfm_lab``.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class TutorialsInWheel(BuildHookInterface):
    """Adds the folder of tutorials to a wheel that is really installed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files; `version` is ``"standard"`` or ``"editable"``."""
        if version == "standard":
            build_data["force_include"]["tutorials"] = "scfm_lab/tutorials"
