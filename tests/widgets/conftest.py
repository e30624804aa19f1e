"""A bench with a wire that can be read: what Python tells the browser is kept instead of sent."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import comm
import pytest
from comm.base_comm import BaseComm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData

    from scfm_widgets import Lab


class Wire(BaseComm):
    """The browser's end of a comm."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[tuple[str, dict[str, Any], list[bytes]]] = []
        super().__init__(*args, **kwargs)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        content = (data or {}).get("content")
        self.sent.append((msg_type, content or dict(data or {}), [bytes(item) for item in buffers or []]))


@dataclass
class Bench:
    """A widget and the way the browser speaks to it."""

    lab: Lab
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    def ask(self, seconds: float = 120, **content: Any) -> tuple[dict[str, Any], list[bytes]]:
        """Send a message as the browser does, and wait for its answer."""
        number = next(self._ids)
        self.lab._handle_custom_msg({**content, "id": number}, [])
        self.lab.wait(seconds)
        for kind, answer, buffers in self.lab.comm.sent:
            if kind == "comm_msg" and answer.get("id") == number:
                return answer, buffers
        raise AssertionError(f"no answer to {content}")

    def updates(self, trait: str) -> list[Any]:
        """Every value of a trait that was sent, in order."""
        return [
            data["state"][trait]
            for kind, data, _ in self.lab.comm.sent
            if kind == "comm_msg" and data.get("method") == "update" and trait in data.get("state", {})
        ]


@pytest.fixture(scope="session")
def registry_ready(private_home: Path) -> None:
    """The registry of the tests' home is made once, in this thread.

    MLflow's first use takes seconds and warns of what is not ours; in a bench's own thread it would outlast the test that
    began it.
    """
    from scfm_registry import Registry

    assert private_home
    Registry().search()


@pytest.fixture
def bench(registry_ready: None, pbmc68k: AnnData, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    """Opens benches; by default on the bundled cells."""
    from scfm_widgets import Lab

    monkeypatch.setattr(comm, "create_comm", Wire)
    opened: list[Lab] = []

    def open_bench(adata: AnnData | None = None, **options: Any) -> Bench:
        opened.append(Lab(pbmc68k if adata is None else adata, **options))
        return Bench(opened[-1])

    yield open_bench
    for lab in opened:
        lab.session.cancel()
        lab.wait(60)
        lab.close()
