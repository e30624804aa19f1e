"""Panels of others: opened, spoken to, and harmless when they fail."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pytest

from scfm_lab.errors import DataError, PluginError
from scfm_lab.plugins import Contribution
from scfm_widgets.panels import Panel, open_panels

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.widgets.conftest import Bench

FACE = "export function render({ el }) { el.textContent = 'here'; }"


class Counts(Panel):
    """Says how many cells are selected."""

    title = "Counts"
    esm = FACE

    def handle(self, message: dict[str, Any]) -> Any:
        """Answer in each of the ways there are."""
        way = message["way"]
        n = int(self.session.selection.sum())
        if way == "error":
            raise DataError("Nothing to count.")
        if way == "buffers":
            return {"n": n}, [bytes([1, 2, 3])]
        if way == "later":
            return self.session.submit("count", lambda progress, cancel: {"n": n}, quiet=True)
        if way == "broken future":
            future: Future[Any] = Future()
            future.set_exception(ZeroDivisionError("division by zero"))
            return future
        return {"n": n} if way == "plain" else None


def raises(session: Any) -> Any:
    raise RuntimeError("no licence server")


def faceless(session: Any) -> Any:
    return type("Faceless", (), {"title": "Faceless"})()


@pytest.fixture
def opened(bench: Callable[..., Bench]) -> Bench:
    """A bench with these panels beside its own."""
    made = bench()
    factories = {"counts": Counts, "raises": raises, "faceless": faceless}
    contributions = [
        Contribution(f"mine.{name}", "panels", "mine", {"id": f"mine.{name}", "factory": f"{__name__}:{name}"})
        for name in (*factories, "gone")
    ]

    class Local(Contribution):
        def load(self) -> Any:
            name = self.id.partition(".")[2]
            if name == "gone":
                raise PluginError("Plugin 'mine': 'mine.gone' could not be loaded.")
            return factories[name]

    rows = [Local(c.id, c.kind, c.plugin, c.data) for c in contributions]
    made.lab.rows = [*made.lab.rows, *open_panels(made.lab.session, rows)]
    return made


def test_a_panel_that_fails_is_one_row_with_its_reason(opened: Bench) -> None:
    rows = {row.id: row for row in opened.lab.rows}
    assert rows["mine.counts"].error is None
    assert "RuntimeError: no licence server" in rows["mine.raises"].error
    assert "needs an 'esm'" in rows["mine.faceless"].error
    assert "could not be loaded" in rows["mine.gone"].error
    assert rows["scfm-widgets.models"].error is None


def test_a_panel_is_described_as_plain_values(opened: Bench) -> None:
    row = next(row for row in opened.lab.rows if row.id == "mine.counts").describe()
    assert (row["title"], row["esm"], row["component"]) == ("Counts", FACE, None)


def test_a_face_may_be_a_file(bench: Callable[..., Bench], tmp_path: Path) -> None:
    file = tmp_path / "face.js"
    file.write_text(FACE, encoding="utf-8")

    class FromFile(Counts):
        esm = file

    class Local(Contribution):
        def load(self) -> Any:
            return FromFile

    row = open_panels(bench().lab.session, [Local("mine.file", "panels", "mine", {})])[0]
    assert row.esm == FACE


@pytest.mark.parametrize("way", ["plain", "later"])
def test_an_answer_comes_back(opened: Bench, way: str) -> None:
    opened.lab.selection = [1, 2]
    assert opened.ask(type="panel", panel="mine.counts", message={"way": way})[0]["n"] == 2


def test_buffers_come_back_beside_the_answer(opened: Bench) -> None:
    answer, buffers = opened.ask(type="panel", panel="mine.counts", message={"way": "buffers"})
    assert answer["n"] == 0
    assert buffers == [b"\x01\x02\x03"]


def test_nothing_to_say_is_an_answer_too(opened: Bench) -> None:
    assert set(opened.ask(type="panel", panel="mine.counts", message={"way": "nothing"})[0]) == {"id"}


@pytest.mark.parametrize(
    ("way", "words"),
    [("error", "Nothing to count."), ("broken future", "ZeroDivisionError")],
)
def test_what_it_raises_is_shown_in_words_and_rejects_the_question(opened: Bench, way: str, words: str) -> None:
    answer, _ = opened.ask(type="panel", panel="mine.counts", message={"way": way})
    assert words in answer["error"]
    assert opened.lab._errors[-1]["text"] == answer["error"]


@pytest.mark.parametrize("panel", ["mine.raises", "mine.nobody", None])
def test_a_question_to_a_panel_that_is_not_there_is_refused(opened: Bench, panel: str | None) -> None:
    assert "has no panel" in opened.ask(type="panel", panel=panel, message={})[0]["error"]


def test_a_message_that_nobody_understands_is_refused(opened: Bench) -> None:
    assert "No panel of this bench answers 'dance'" in opened.ask(type="dance")[0]["error"]
