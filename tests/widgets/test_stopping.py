"""Whatever takes long on the bench can be stopped, and says that it was."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from scfm_widgets import panel_perturb, worker
from scfm_widgets.worker import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.widgets.conftest import Bench

MODEL = "pca"
GENE = "CD3D"


def until(there: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.005)


def running(opened: Bench) -> str | None:
    job = opened.lab.session._worker._running
    return None if job is None or job.status != "running" else job.kind


def opening(opened: Bench, source: str) -> threading.Lock:
    """As long as this is held the model does not open, as where its files are large."""
    return opened.lab.session.shelf.opening.setdefault(source, threading.Lock())


def test_the_opening_of_a_model_can_be_stopped_and_begun_again(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = bench()
    lab: Any = opened.lab
    session = lab.session
    monkeypatch.setattr(worker, "QUIET_FOR", 0.01)
    with opening(opened, MODEL):
        future = lab.panel("run").plan(MODEL)
        # It says nothing of how far it is, and yet it has its button.
        until(lambda: lab._job is not None and (lab._job["kind"], lab._job["status"]) == ("plan", "running"))
        session.cancel(lab._job["id"])
        with pytest.raises(Stopped):
            future.result(30)
        assert lab.wait(30)
        assert lab._job["status"] == "cancelled"
        # What was left behind holds up no other.
        assert session.open_model("sctop").spec.name
    assert opened.lab._plan == {"model": MODEL, "status": "stopped"}
    assert session.faults == []
    opened.ask(type="plan", model=MODEL)
    assert opened.lab._plan["status"] == "ready"


def test_a_model_that_opens_for_one_gene_holds_up_nothing_that_is_only_read(bench: Callable[..., Bench]) -> None:
    opened = bench(model=MODEL)
    genes = opened.lab.panel("gene")
    with opening(opened, MODEL):
        answer, _ = opened.ask(type="gene", gene=GENE)
        assert answer["groups"]["rows"]
        assert answer["neighbours"] is None
        future = genes.handle({"type": "alike", "gene": GENE})
        until(lambda: running(opened) == "gene")
        again = genes.handle({"type": "gene", "gene": "LYZ"}).result(30)
        assert (again["gene"], again["neighbours"]) == ("LYZ", None)
        opened.lab.session.cancel()
        with pytest.raises(Stopped):
            future.result(30)


def test_a_batch_that_takes_long_is_not_waited_for(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = bench(model=MODEL)
    lab: Any = opened.lab
    model = lab.session.open_model(MODEL)
    encode, held = model._forward, threading.Event()

    def slow(*given: Any) -> Any:
        assert held.wait(60)
        return encode(*given)

    monkeypatch.setattr(model, "_forward", slow)
    before = sorted(lab.session.adata.obsm)
    future = lab.panel("run").run(MODEL, layout="X_umap")
    until(lambda: running(opened) == "embed")
    lab.session.cancel()
    with pytest.raises(Stopped):
        future.result(30)
    assert lab.wait(30)
    assert lab._job["status"] == "cancelled"
    held.set()
    assert sorted(lab.session.adata.obsm) == before
    # What was left behind ends, and the same run goes through.
    assert lab.panel("run").run(MODEL, layout="X_umap").result(60)["key"] == "X_pca"


def test_a_page_that_waits_for_its_model_can_be_stopped(bench: Callable[..., Bench]) -> None:
    opened = bench(model=MODEL)
    with opening(opened, MODEL):
        future = opened.lab.panel("html").handle({"type": "html", "genes": [GENE]})
        until(lambda: running(opened) == "page")
        opened.lab.session.cancel()
        with pytest.raises(Stopped):
            future.result(30)
    # No model makes a page, whichever is picked.
    assert opened.lab.wait(30)
    assert [(run["kind"], run["model"]) for run in opened.lab._runs] == [("page", "")]


def test_an_import_that_is_stopped_registers_nothing(
    bench: Callable[..., Bench], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scfm_registry import Registry, importing

    read = importing.copy

    def slow(*given: Any, cancel: Any = None) -> None:
        # As where the files are large: it is stopped in the middle, and looks at the end of a file.
        cancel.wait(60)
        read(*given, cancel=cancel)

    monkeypatch.setattr(importing, "copy", slow)
    opened = bench()
    folder = repository / "scfm_lab" / "models" / "assets" / "starter"
    future = opened.lab.panel("models")._import(str(folder), "stopped-import")
    until(lambda: running(opened) == "import")
    opened.lab.session.cancel()
    with pytest.raises(Stopped):
        future.result(30)
    assert opened.lab.wait(30)
    assert opened.lab._job["status"] == "cancelled"
    assert [item.name for item in Registry().search() if item.name == "stopped-import"] == []


def test_a_null_that_is_stopped_says_so_and_can_be_asked_for_again(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = bench(model=MODEL)
    lab: Any = opened.lab
    # What follows an answer waits here until it is stopped.
    monkeypatch.setattr(panel_perturb, "DRAW_FIRST", 600.0)
    lab.panel("perturb").perturb({GENE: 0.0})
    until(lambda: running(opened) == "null")
    assert lab._perturbation["null"] == "pending"
    lab.session.cancel()
    assert lab.wait(30)
    assert lab._perturbation["null"] == "stopped"
    monkeypatch.setattr(panel_perturb, "DRAW_FIRST", 0.0)
    opened.ask(type="perturb", doses={GENE: 0.0})
    assert lab._perturbation["null"] == "ready"
