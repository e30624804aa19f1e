"""Looking at a page until it has come to rest or shows something else: no test waits for a fixed time."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page

#: Milliseconds between two looks, and seconds after which a picture that does not come is a fault.
_EVERY = 60
_AT_MOST = 60
#: Pictures are of cells. Words and boxes that lie over them are left out: where a place begins between two pixels, as in a
#: notebook, a browser smooths their edges now one way and now another.
_BARE = ".sl-plane > :not(.sl-canvas), .sl-tour { visibility: hidden !important; }"


def steady(place: Locator) -> bytes:
    """Give the picture of a place once it is the same twice in a row."""
    deadline = time.monotonic() + _AT_MOST
    shown = _picture(place)
    while time.monotonic() < deadline:
        place.page.wait_for_timeout(_EVERY)
        shown, before = _picture(place), shown
        if shown == before:
            return shown
    raise AssertionError("the picture does not come to rest")


def other_than(place: Locator, *pictures: bytes) -> bytes:
    """Give the picture of a place once it has come to rest and is none of these."""
    deadline = time.monotonic() + _AT_MOST
    while (shown := steady(place)) in pictures:
        if time.monotonic() > deadline:
            raise AssertionError("the picture stays as it was")
        place.page.wait_for_timeout(_EVERY)
    return shown


def same_as(place: Locator, picture: bytes) -> None:
    """Wait until a place looks as it did before. Never compare pictures in an assert: pytest takes minutes to tell bytes apart."""
    deadline = time.monotonic() + _AT_MOST
    while (shown := _picture(place)) != picture:
        if time.monotonic() > deadline:
            raise AssertionError(f"the picture does not come back: {_difference(shown, picture)}")
        place.page.wait_for_timeout(_EVERY)


def _picture(place: Locator) -> bytes:
    return place.screenshot(style=_BARE)


def _difference(shown: bytes, wanted: bytes) -> str:
    one, other = (Image.open(io.BytesIO(picture)).convert("RGB") for picture in (shown, wanted))
    if one.size != other.size:
        return f"it has {one.size} pixels, and had {other.size}"
    return f"it differs within {ImageChops.difference(one, other).getbbox()}"


def arrived(page: Page, there: Callable[[], object]) -> None:
    """Wait until Python has heard of what was done on the page."""
    deadline = time.monotonic() + _AT_MOST
    while not there():
        if time.monotonic() > deadline:
            raise AssertionError("Python has not heard of it")
        page.wait_for_timeout(_EVERY)
