"""``scfm-lab doctor``: what works on this machine and what does not, each in words."""

from __future__ import annotations

import shutil
import sys
import tomllib
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scfm_lab import plugins
from scfm_lab.cli.output import say
from scfm_lab.errors import ScfmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_DISTRIBUTION = "scfm-lab"
_LITTLE_DISK_GIB = 2.0
OK, NOTE, FAIL = "ok", "note", "fail"
_NAMED_PACKAGES = ("torch", "numpy", "scanpy", "anndata", "mlflow", "anywidget")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    about
        What was looked at.
    state
        ``"ok"``: it works; ``"fail"``: it does not and has to; ``"note"``: good to know.
    text
        What was found and, where something is wrong, what to do.
    """

    about: str
    state: str
    text: str


@click.command(epilog="\b\nExamples:\n  scfm-lab doctor\n  scfm-lab doctor --json")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Say what works on this machine and what does not.

    Looks at versions, hardware, the data directory, the models, the registry, plugins, notebook and browser. Exits with 1
    where something does not work that has to.
    """
    findings = list(examine())
    failed = sum(item.state == FAIL for item in findings)
    width = max(len(item.about) for item in findings)
    lines = [
        f"{item.state.upper() if item.state == FAIL else item.state:4}  {item.about.ljust(width)}  {item.text}"
        for item in findings
    ]
    lines.append(
        f"{failed} of {len(findings)} do not work; see FAIL." if failed else "Everything that has to work works."
    )
    say("\n".join(lines), {"ok": not failed, "findings": [asdict(item) for item in findings]}, as_json=as_json)
    if failed:
        context.exit(1)


def examine() -> Iterator[Finding]:
    """Look at everything, one finding after the other; a part that fails is a finding, and the rest goes on."""
    for about, look in (
        ("scfm-lab", _versions),
        ("hardware", _hardware),
        ("data directory", _home),
        ("plugins", _plugins),
        ("models", _models),
        ("notebook", _notebook),
        ("tutorial", _tutorial),
        ("browser", _browser),
    ):
        yield from _guarded(about, look)
    for check in plugins.discover().checks("doctor"):
        yield from _guarded(check.plugin, partial(_asked, check))


def _guarded(about: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except ScfmError as error:
        return [Finding(about, FAIL, str(error))]
    # What is examined is broken in ways nobody has thought of; saying so is the purpose.
    except Exception as error:  # noqa: BLE001
        return [Finding(about, FAIL, f"{type(error).__name__}: {error}")]


def _asked(check: plugins.Check) -> Iterator[Finding]:
    """Ask a plugin's own check, which gives triples as a :class:`Finding` has them."""
    for about, state, text in check.load()():
        if state not in (OK, NOTE, FAIL):
            raise ValueError(f"its check of 'doctor' gives the state {state!r}; it must be ok, note or fail")
        yield Finding(str(about), state, str(text))


def _versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    from scfm_lab import __version__

    yield Finding(
        "scfm-lab", OK, f"{__version__} on Python {sys.version.split()[0]}, in {Path(__file__).resolve().parents[1]}"
    )
    found, wrong = [], []
    for text in _requirements():
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if need.specifier.contains(version, prereleases=True):
            found.append(f"{need.name} {version}")
        else:
            wrong.append(f"{need.name} {version} is not {need.specifier}")
    if wrong:
        yield Finding("packages", FAIL, f"{'; '.join(wrong)}. Install scfm-lab again with pip to repair this.")
    named = [item for item in found if item.split()[0] in _NAMED_PACKAGES]
    yield Finding("packages", OK, f"{len(found)} as needed, among them {', '.join(named)}.")


def _requirements() -> list[str]:
    """Give what scfm-lab needs: from the installed metadata, or from the checkout's own file."""
    try:
        return metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        project = Path(__file__).resolve().parents[2] / "pyproject.toml"
        return list(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"])


def _hardware() -> Iterator[Finding]:
    import torch

    from scfm_lab.inference.hardware import Hardware

    here = Hardware.detect()
    yield Finding("hardware", OK, here.describe())
    # A driver that is listed may still not compute; one product tells.
    product = torch.ones(8, 8, device=here.device) @ torch.ones(8, 8, device=here.device)
    right = bool((product == 8).all().item())
    yield Finding(
        "device",
        OK if right else FAIL,
        f"PyTorch {torch.__version__} computes on {here.device}" + ("." if right else " wrongly."),
    )


def _home() -> Iterator[Finding]:
    from scfm_lab.home import data_home

    home = data_home()
    free = shutil.disk_usage(home).free / 2**30
    enough = free >= _LITTLE_DISK_GIB
    yield Finding(
        "data directory",
        OK if enough else NOTE,
        f"{home}, {free:.0f} GiB free"
        + ("." if enough else ": checkpoints will not fit; set SCFM_HOME to another disk."),
    )


def _models() -> Iterator[Finding]:
    """Open what a plugin ships, and say whether it fits this machine."""
    from scfm_lab.inference.hardware import fits
    from scfm_lab.models.load import load_model

    for contribution in plugins.discover().contributions("models"):
        if contribution.data.get("needs_files"):
            continue
        about = f"model {contribution.id}"
        try:
            fit = fits(load_model(contribution.id))
        # An adapter is a plugin's code; one that fails is a finding.
        except Exception as error:  # noqa: BLE001
            text = str(error) if isinstance(error, ScfmError) else f"{type(error).__name__}: {error}"
            yield Finding(about, FAIL if contribution.plugin == "scfm" else NOTE, text)
            continue
        yield Finding(about, OK if fit.verdict == "fits" else NOTE, f"{fit.verdict}: {fit.reason}")


def _plugins() -> Iterator[Finding]:
    for row in plugins.discover().plugins:
        if row.error:
            yield Finding(f"plugin {row.name}", FAIL if row.own else NOTE, row.error)
        elif not row.own:
            yield Finding(f"plugin {row.name}", OK, f"{row.version}, from {row.distribution}")


def _notebook() -> Iterator[Finding]:
    if util.find_spec("jupyterlab") is None:
        yield Finding("notebook", NOTE, "JupyterLab is not installed: pip install 'scfm-lab[lab]' for `scfm-lab lab`.")
    else:
        from scfm_lab.cli.start import runs_as_root

        root = ". You are root here, so `scfm-lab lab` starts it with --allow-root." if runs_as_root() else ""
        yield Finding("notebook", OK, f"JupyterLab {metadata.version('jupyterlab')}{root}")


def _tutorial() -> Iterator[Finding]:
    from scfm_lab.cli.start import TUTORIAL, tutorials

    yield Finding("tutorial", OK, f"{tutorials() / TUTORIAL}")


def _browser() -> Iterator[Finding]:
    import webbrowser

    try:
        webbrowser.get()
    except webbrowser.Error:
        yield Finding(
            "browser",
            NOTE,
            "No browser can be opened from here: `scfm-lab lab` prints an address to open elsewhere, and reports are files.",
        )
    else:
        yield Finding("browser", OK, "Notebooks and reports can be opened from here.")
