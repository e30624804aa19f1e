"""Looking at a page until it has come to rest or shows something else: no test waits for a fixed time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page

#: Milliseconds between two looks, and seconds after which a picture that does not come is a fault.
_EVERY = 60
_AT_MOST = 60


def steady(place: Locator) -> bytes:
    """Give the picture of a place once it is the same twice in a row."""
    deadline = time.monotonic() + _AT_MOST
    shown = place.screenshot()
    while time.monotonic() < deadline:
        place.page.wait_for_timeout(_EVERY)
        shown, before = place.screenshot(), shown
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


def arrived(page: Page, there: Callable[[], object]) -> None:
    """Wait until Python has heard of what was done on the page."""
    deadline = time.monotonic() + _AT_MOST
    while not there():
        if time.monotonic() > deadline:
            raise AssertionError("Python has not heard of it")
        page.wait_for_timeout(_EVERY)
