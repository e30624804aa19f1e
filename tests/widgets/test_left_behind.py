"""Which benches nothing leads to any more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ipywidgets
import pytest
from traitlets import HasTraits

from scfm_widgets import cell


class Bench(HasTraits):
    """Stands where a bench would."""


@pytest.mark.parametrize(
    "hold",
    [
        lambda bench: bench,
        lambda bench: [1, bench],
        lambda bench: (bench,),
        lambda bench: {"pbmc": bench},
        lambda bench: {"pbmc": [{"bench": bench}]},
        lambda bench: SimpleNamespace(bench=bench),
        lambda bench: SimpleNamespace(benches=[bench]),
        lambda bench: type("Kept", (), {"bench": bench}),
        lambda bench: frozenset({bench}),
    ],
)
def test_what_a_variable_holds_is_found_however_it_holds_it(hold: Any) -> None:
    wanted, other = Bench(), Bench()
    assert cell.leads_to(wanted, [3, "text", hold(wanted)])
    assert not cell.leads_to(wanted, [3, "text", hold(other)])


def test_what_shows_a_widget_holds_it_and_no_other() -> None:
    shown, other = ipywidgets.Label(), ipywidgets.Label()
    box = ipywidgets.VBox([shown])
    assert cell.leads_to(shown, [box])
    assert not cell.leads_to(other, [box])


def test_what_holds_itself_and_what_holds_too_much_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, within = Bench(), [[] for _ in range(50)]
    within.append(within)
    assert not cell.leads_to(wanted, [within])
    assert not cell.leads_to(wanted, [[wanted]], past=[within, wanted])
    monkeypatch.setattr(cell, "_MOST_THINGS", 10)
    assert cell.leads_to(wanted, [within]), "rather kept open than closed under somebody's hands"
