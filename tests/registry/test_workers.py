"""Processes that read what somebody brings: each answers one request, and none runs what lies in the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING

import pytest

from scfm_registry import Registry, workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each import starts a process of its own")
#: Answers as it is asked to.
ANSWERS = """
    import os, signal, sys, time
    from scfm_registry import workers
    told = []
    def answer(text):
        told.append(text)
        print(told, os.environ.get("SAID"), os.getcwd(), flush=True)
        print("aside", file=sys.stderr)
        if text == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if text.startswith("wait"):
            if text[5:]:
                with open(text[5:] + "~", "w") as file:
                    file.write(str(os.getpid()))
                os.rename(text[5:] + "~", text[5:])
            time.sleep(600)
        if text == "fail":
            raise ValueError("a fault")
        return 3
    sys.exit(workers.serve(int(sys.argv[1]), answer))
"""


@pytest.fixture
def forking() -> Iterator[workers.Forking]:
    found = workers.Forking([sys.executable, "-P", "-c", textwrap.dedent(ANSWERS)])
    yield found
    found.end()


def test_each_request_has_a_process_of_its_own(
    forking: workers.Forking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAID", "first")
    one = forking.ask("one", 60)
    monkeypatch.setenv("SAID", "second")
    monkeypatch.chdir(tmp_path)
    two = forking.ask("two", 60)
    assert one is not None
    assert two is not None
    assert (one.stdout.split()[:2], one.returncode) == (["['one']", "first"], 3)
    assert two.stdout.split() == ["['two']", "second", str(tmp_path)], "nothing of the first is left"
    assert two.stderr == "aside\n"


def test_a_process_that_ends_badly_is_told_and_the_next_one_answers(forking: workers.Forking) -> None:
    died, failed = forking.ask("die", 60), forking.ask("fail", 60)
    assert died is not None
    assert failed is not None
    assert (died.returncode, died.stdout.split()[0]) == (-9, "['die']")
    assert failed.returncode == 1
    assert failed.stderr.strip().endswith("ValueError: a fault")
    with pytest.raises(subprocess.TimeoutExpired):
        forking.ask("wait", 3)
    after = forking.ask("after", 60)
    assert after is not None
    assert after.returncode == 3


def test_who_is_killed_while_it_asks_leaves_no_process(tmp_path: Path) -> None:
    asks = f"""
        import os, sys
        from scfm_registry import workers
        forking = workers.Forking([sys.executable, "-P", "-c", {textwrap.dedent(ANSWERS)!r}])
        forking.ask("one", 60)
        print(forking.process, flush=True)
        os.kill(os.getpid(), 9)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(asks)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == -9, done.stderr
    assert _comes(lambda: not os.path.exists(f"/proc/{int(done.stdout)}"))


def _comes(what: Callable[[], bool]) -> bool:
    """Whether something comes about, for which half a minute is more than enough."""
    end = time.monotonic() + 30
    while not what() and time.monotonic() < end:
        time.sleep(0.05)
    return what()


@pytest.mark.parametrize("told", [True, False], ids=["told", "looks"])
def test_a_child_whose_asker_is_killed_is_ended(told: bool, tmp_path: Path) -> None:
    """The folder that it reads and writes has no owner any more; ``looks``: where no system call tells of a child's end."""
    answers = textwrap.dedent(ANSWERS)
    if not told:
        answers = f"import os\nif hasattr(os, 'pidfd_open'):\n    del os.pidfd_open\n{answers}"
    asks = f"""
        from scfm_registry import workers
        forking = workers.Forking([{sys.executable!r}, "-P", "-c", {answers!r}])
        assert forking.ask("one", 60).returncode == 3
        print(forking.process, flush=True)
        forking.ask("wait {tmp_path / "child"}", 600)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(asks)], stdout=subprocess.PIPE, text=True) as asker:
        assert asker.stdout is not None
        server = int(asker.stdout.readline())
        assert _comes((tmp_path / "child").exists)
        child = int((tmp_path / "child").read_text())
        assert os.path.exists(f"/proc/{child}")
        asker.kill()
    for process in (server, child):
        assert _comes(lambda process=process: not os.path.exists(f"/proc/{process}"))  # type: ignore[misc]


@pytest.mark.parametrize("alone", [False, True], ids=["forked", "started"])
def test_modules_that_lie_in_the_working_directory_do_not_run(
    alone: bool, basis: Callable[..., Path], made_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever types ``scfm-lab models import brought`` among downloads runs none of them."""
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    for name in ("torch", "json", "pandas", "scfm_lab"):
        (downloads / f"{name}.py").write_text(f"open({str(tmp_path / 'trap')!r}, 'w')")
    monkeypatch.chdir(downloads)
    forking = workers.Forking([*workers.PYTHON, "a_module_that_there_is_not"] if alone else workers.SERVER)
    monkeypatch.setattr(workers, "_forking", forking)
    found = Registry().import_checkpoint(basis(downloads / "brought"), "mine")
    assert (forking.process is None) == alone
    forking.end()
    assert found.family == "scfm.pca"
    assert not (tmp_path / "trap").exists()
