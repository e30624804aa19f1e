"""For authors of plugins: prove a model or a panel, as scikit-learn's ``check_estimator`` does for an estimator.

Examples
--------
>>> from scfm_lab.testing import check_model
>>> print(check_model("scfm.pca").summary())  # doctest: +SKIP
scfm.pca: 16 checks passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import PluginError, ScfmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anndata import AnnData

    from scfm_lab.models.contract import Model

__all__ = ["Check", "CheckFailed", "Fault", "NotApplicable", "Report", "check_model", "check_panel", "run_checks"]


@dataclass(frozen=True)
class Check:
    """What came of one check.

    Attributes
    ----------
    name
        What was checked, in a few words.
    state
        ``"passed"``, ``"failed"`` or ``"skipped"``.
    detail
        What was seen: the reason of a failure or of skipping, or a figure.
    """

    name: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one model or panel."""

    subject: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.state == "failed")

    def summary(self) -> str:
        """One line in all, and one per check that did not pass."""
        count = sum(check.state == "passed" for check in self.checks)
        lines = [f"{self.subject}: {count} checks passed" + (f", {len(self.failed)} failed." if self.failed else ".")]
        lines += [f"  {check.state}: {check.name}: {check.detail}" for check in self.checks if check.state != "passed"]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Report\n{self.summary()}>"


class CheckFailed(ScfmError, AssertionError):
    """One or more checks failed; the message names them all, and ``.report`` holds every check."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(report.summary())


class Fault(Exception):
    """Raised inside a check: what was found wrong."""


class NotApplicable(Exception):
    """Raised inside a check that has nothing to look at: why it was skipped."""


def run_checks(subject: str, checks: Iterable[tuple[str, Callable[[], str | None]]]) -> Report:
    """Run checks one after the other, whatever each of them does.

    Parameters
    ----------
    subject
        What is checked, for the report.
    checks
        Pairs of a name and a function. It returns a figure or ``None``, and raises :class:`Fault` or
        :class:`NotApplicable`; any other exception is a failure too.

    Raises
    ------
    CheckFailed
        If any of them failed, after all were run.
    """
    done = []
    for name, check in checks:
        try:
            done.append(Check(name, "passed", check() or ""))
        except NotApplicable as reason:
            done.append(Check(name, "skipped", str(reason)))
        except Fault as fault:
            done.append(Check(name, "failed", str(fault)))
        # What is checked is somebody's unfinished code; that it raises is a result.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            done.append(Check(name, "failed", f"it raised {type(error).__name__}: {error}"))
    report = Report(subject, tuple(done))
    if not report.passed:
        raise CheckFailed(report)
    return report


def check_model(
    model: Model | str,
    *,
    adata: AnnData | None = None,
    config: Mapping[str, Any] | None = None,
    process: bool = True,
) -> Report:
    """Prove that a model keeps the contract.

    Checked are: the spec and its agreement with the manifest; that what it was opened with has one digest
    (``settings_digest``) in every opening and process; shapes and types; that a cell's vector depends neither on
    the other cells, their order and the batch (to 1e-5), nor on the order of the genes; determinism, without touching
    the global random state; cells and genes that the model does not know; wrong input; doses; progress, cancelling
    within one batch, and memory.

    Parameters
    ----------
    model
        An opened model, or an id or source for :func:`scfm_lab.load_model`. It is checked on the CPU in float32.
    adata
        Cells with raw counts to check it on, a few dozen; cells are never changed. Default: cells drawn from the
        model's own vocabulary, with a fixed seed.
    config
        Another configuration to open it with, under which it gives other vectors: it must have another
        ``settings_digest`` then, or kept vectors of one would be given for the other.
    process
        Whether a model that is given by its id is opened in another process too, which takes some seconds.

    Returns
    -------
    Report
        One entry per check.

    Raises
    ------
    CheckFailed
        Naming all checks that failed, each with what was seen.

    Examples
    --------
    In a plugin's own tests::

        def test_my_model():
            check_model("my-fm.base", config={"n_layers": 2})
    """
    from scfm_lab._model_checks import ModelChecks

    return ModelChecks.of(model, adata, config=config, process=process).run()


def check_panel(factory: Callable[..., Any] | str, *, adata: AnnData | None = None, browser: Any = None) -> Report:
    """Prove that a panel can be mounted in the bench and leaves nothing behind.

    Parameters
    ----------
    factory
        The panel's factory, or the id of a contributed panel.
    adata
        Cells for the session it is opened in. Default: the bundled ones.
    browser
        Whether its face is mounted and unmounted in a real browser too. Default: if playwright and a Chromium are there. A
        browser of playwright's plain interface that is open already is used and left open, which saves starting one for each
        of many panels.

    Returns
    -------
    Report

    Raises
    ------
    CheckFailed
        Naming all checks that failed, each with what was seen.
    PluginError
        No bench is installed, or no panel has that id.
    """
    from scfm_lab import plugins

    catalogue = plugins.discover()
    subject = factory if isinstance(factory, str) else getattr(factory, "__qualname__", repr(factory))
    made = catalogue.get("panels", factory).load() if isinstance(factory, str) else factory
    # Panels are hosted by the bench, which this package may not import: it brings its kit through its manifest.
    kits = catalogue.checks("panels")
    if not kits:
        raise PluginError("No bench is installed that panels could be checked in; install scfm-lab with its widgets.")
    report: Report = kits[0].load()(subject, made, adata=adata, browser=browser)
    return report
