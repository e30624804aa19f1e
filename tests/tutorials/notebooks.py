"""Runs a tutorial as a student does, and looks at what it shows."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
#: Runs in a home where something has been done before: see ``test_first_hour.py``.
FIRST = "01_first_knockout"


def run_notebook(path: Path, home: Path, directory: Path) -> None:
    """In a fresh kernel, from top to bottom.

    Parameters
    ----------
    path
        The notebook.
    home
        Becomes ``SCFM_HOME``.
    directory
        An empty one, where it runs.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCFM_HOME", str(home))
        patch.delenv("SCFM_CACHE_GB")
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        client = NotebookClient(
            notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(directory)}}
        )
        client.execute()

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    streams = [
        output.text
        for cell in code
        for output in cell.outputs
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert not [text for text in streams if "Warning" in text], streams
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    assert "://cdn" not in json.dumps([{k: v for k, v in data.items() if "widget" not in k} for data in shown])
    assert sum("image/svg+xml" in data for data in shown) >= 3, "charts are pictures that need no network"
    texts = "".join(str(data.get("text/plain", "")) for data in shown)
    assert not re.search(r"\[\d\d:\d\d[,<]", texts), "a bar goes once the work is done, and stays in no file"
    assert os.listdir(directory) == [], "a tutorial leaves nothing in the directory it runs in"
