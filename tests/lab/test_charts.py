"""Pictures of charts: no label is cut off, whatever letters it is of, and none is a reason to fail."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from scfm_lab.charts import drawable, with_room
from scfm_lab.results import charts


def drawn(label: str) -> str:
    """A picture of 100 pixels with a label that begins in its middle."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="20" viewBox="0 0 100 20">'
        f'<g transform="translate(50,10)"><text font-size="10">{label}</text></g></svg>'
    )


@pytest.mark.parametrize(
    ("label", "width"),
    [("abcde", 100), ("细胞类型", 100), ("细胞类型名", 102), ("🧬🧫🧬🧫🧬🧫", 112), ("ｗｉｄｅ１", 102)],
    ids=["latin", "squares that fit", "Chinese", "emoji", "full width"],
)
def test_letters_that_fill_a_square_have_one(label: str, width: int) -> None:
    found = re.match(r'<svg[^>]*? width="(\d+)"', with_room(drawn(label)))
    assert found is not None
    assert int(found[1]) == width


def test_what_no_reader_of_xml_takes_is_left_as_it_is() -> None:
    picture = drawn("a\x0bb, and more than there is room for")
    assert with_room(picture) == picture


def test_a_control_character_in_a_name_does_not_end_the_process() -> None:
    """Vega's converter aborts at one, which nothing in Python can catch."""
    hostile = {"type": ["a\x0bb\x00", "B\tcell\ud800"], "effect": [1, 2]}
    found = drawable({"data": [hostile, "\x1f", 3, None], "a\x0bb\x00": {"field": "细胞🧬"}})
    assert found == {
        "data": [{"type": ["a�b�", "B\tcell�"], "effect": [1, 2]}, "�", 3, None],
        "a�b�": {"field": "细胞🧬"},
    }
    alt = charts()
    cells = pd.DataFrame({"type": ["a\x0bb", "B cell"], "effect": [1, 2]})
    chart = alt.Chart(cells).mark_bar().encode(x="effect", y="type:N")
    assert "a�b" in chart._repr_mimebundle_()["image/svg+xml"]
