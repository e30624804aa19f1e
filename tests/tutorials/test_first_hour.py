"""What a newcomer runs first, one after the other in one home: the demo, the README's ten lines, the first tutorial."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from notebooks import FIRST, NOTEBOOKS, run_notebook

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from playwright.sync_api import Browser


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the demo in a directory and a home below a folder."""
    (folder / "work").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "scfm_lab", "demo", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder / "work",
        env=at_home(folder),
    )


def at_home(folder: Path) -> dict[str, str]:
    """The environment of who lives there: vectors that one step has computed are there for the next."""
    return {**os.environ, "SCFM_HOME": str(folder / "home"), "SCFM_CACHE_GB": "2"}


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a home that is empty at first: what one of the three has computed is there for the next."""
    return tmp_path_factory.mktemp("newcomer")


@pytest.fixture(scope="module")
def done(newcomer: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One run, and the directory it ran in."""
    result = demo(newcomer, "--json")
    assert result.returncode == 0, result.stderr
    return newcomer / "work", result


@pytest.fixture(scope="module")
def expressing(_pbmc68k: AnnData) -> int:
    """In how many cells the gene is that the demo knocks out."""
    return int((_pbmc68k[:, "CD3D"].X.toarray() > 0).sum())


@pytest.fixture(scope="module")
def found(done: tuple[Path, subprocess.CompletedProcess[str]]) -> dict[str, Any]:
    """What it printed."""
    return json.loads(done[1].stdout)


# A machine that does other things at the same time may need much longer than an idle one.
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_leaves_the_report_and_nothing_else(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    directory, _ = done
    assert [path.name for path in directory.iterdir()] == ["scfm-lab-report.html"]


@pytest.mark.slow
def test_every_step_is_told_on_standard_error(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    told = re.findall(r"^\[(\d)/7\] .+ …$", done[1].stderr, re.MULTILINE)
    assert told == list("1234567")
    assert "Warning" not in done[1].stderr


@pytest.mark.slow
def test_the_model_comes_from_the_registry(found: dict[str, Any]) -> None:
    assert {"pca/1", "sctop/1", "starter/1"} <= set(found["models"])
    assert found["model"] == "starter/1"


@pytest.mark.slow
def test_the_model_and_both_floors_know_more_than_the_most_frequent_type(found: dict[str, Any]) -> None:
    assert [row["model"] for row in found["annotation"]] == ["starter", "pca", "sctop"]
    for row in found["annotation"]:
        assert row["n_query"] + row["n_reference"] == 700
        assert row["accuracy"] > 240 / 700  # dendritic cells
        for metric in ("accuracy", "macro_f1"):
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]


@pytest.mark.slow
def test_the_cells_that_have_the_gene_move_and_the_null_is_honest(found: dict[str, Any], expressing: int) -> None:
    table = {row["group"]: row for row in found["perturbation"]["table"]}
    everyone = table.pop("all")
    assert everyone["n_changed"] == everyone["n_expressing"] == expressing
    # CD3D is of T cells.
    farthest = sorted(table.values(), key=lambda row: row["effect"])[-3:]
    assert all(row["group"].startswith(("CD4+", "CD8+")) for row in farthest)
    for row in table.values():
        if row["p_value"] is not None:
            assert row["p_value"] >= 1 / (row["n_null"] + 1) - 1e-9


@pytest.mark.slow
def test_the_trajectory_starts_at_the_stem_cells(found: dict[str, Any]) -> None:
    order = sorted(found["trajectory"]["table"], key=lambda row: row["median_pseudotime"])
    assert order[0]["group"] == "CD34+"


@pytest.mark.slow
def test_the_report_names_no_other_host(done: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    page = (done[0] / "scfm-lab-report.html").read_text()
    assert re.findall(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", page) == []
    assert re.findall(r"""(?:\bimport\b|\bfetch\(|url\()\s*["'(]*https?://""", page) == []
    assert "default-src 'none'" in page, "the page forbids itself to load anything"


@pytest.mark.slow
def test_the_report_opens_without_a_network(
    done: tuple[Path, subprocess.CompletedProcess[str]], expressing: int, browser: Browser
) -> None:
    page_file = (done[0] / "scfm-lab-report.html").as_uri()
    requests: list[str] = []
    errors: list[str] = []
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(page_file)
    page.get_by_role("heading", name="CD3D knocked out in 700 blood cells").wait_for()
    page.locator("#bench .sl-morph-text").get_by_text(f"{expressing} cells changed").wait_for()
    page.get_by_role("heading", name="Trajectory").wait_for()
    context.close()
    assert errors == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [page_file]


@pytest.mark.slow
@pytest.mark.usefixtures("done")
def test_the_ten_lines_run(newcomer: Path, tmp_path: Path, repository: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", (repository / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    statements = [line for line in program.splitlines() if line.strip()]
    assert len(statements) == 10
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=at_home(newcomer),
    )
    assert result.returncode == 0, result.stderr
    audit, knockout = result.stdout.split("CD3D at dose 0")
    assert "starter knows" in audit
    assert "comparable genes" in knockout


@pytest.mark.slow
@pytest.mark.tutorial
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("done")
def test_the_first_tutorial_runs_from_top_to_bottom(newcomer: Path, tmp_path: Path) -> None:
    (path,) = (path for path in NOTEBOOKS if path.stem == FIRST)
    run_notebook(path, newcomer / "home", tmp_path)


@pytest.mark.parametrize(
    ("own", "floor", "said"),
    [
        (
            60,
            50,
            "cannot be told apart from the floor, pca: it labels 10 more of 100 cells (95 % interval: 8 fewer to 28 more)",
        ),
        (95, 50, "is above the floor here, pca: it labels 45 more of 100 cells"),
        (20, 60, "is below its floor here, pca: it labels 40 fewer of 100 cells"),
    ],
)
def test_the_verdict_is_not_drawn_from_a_few_cells(own: int, floor: int, said: str) -> None:
    """The cells that only one of the two labels rightly decide: here as few of them overlap as can be."""
    import numpy as np
    import pandas as pd

    from scfm_widgets.demo import verdict

    place = np.arange(100)
    right = {"starter": place < own, "pca": place >= 100 - floor, "sctop": place < 10}
    table = pd.DataFrame([{"model": name, "accuracy": r.mean(), "right": r} for name, r in right.items()])
    assert said in verdict("starter", table)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gene", "CD79AA"], "Error: The bundled cells have no gene 'CD79AA'. Did you mean 'CD79A'"),
        pytest.param(["--model", "startr"], "'startr'", marks=pytest.mark.thorough),
        (["--out", "missing/report.html"], "missing"),
    ],
    ids=["gene", "model", "folder"],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    result = demo(tmp_path, *arguments)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert sentence in last
    assert last.startswith("Error: ")
    assert list((tmp_path / "work").iterdir()) == []
