"""Compare every array that the references of published models left behind with what the lab gives.

python benchmarks/agreement.py [--golden FOLDER] [--write docs/models/agreement.md] [--device cuda]

Absolute tolerances are those of each fixture, and never looser than 1e-4; large numbers (expected counts in the hundreds) may
differ by 1e-5 of their value besides, where the fixture allows more. Rows of vectors must point the same way (cosine at least
0.99999). An array that is not compared is named with the reason.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from agreement_more import scbert, scfoundation, transcriptformer, uce
from agreement_runs import Run, geneformer, scgpt

LEAST_COSINE = 0.99999
ROOT = Path(__file__).resolve().parents[1]
RUNS = {
    "scgpt": scgpt,
    "geneformer_v1": geneformer,
    "geneformer_v2": geneformer,
    "uce": uce,
    "transcriptformer": transcriptformer,
    "scfoundation": scfoundation,
    "scbert": scbert,
}
#: Arrays that only choose what others hold: rows, places, genes that were asked for.
SELECTIONS = ("detail.cells", "gene_emb.ids", "subset.cells", "isp.all.cell", "two_cells", "mlm_logits_pos")


@dataclass(frozen=True)
class Agreement:
    """One array, compared."""

    name: str
    shape: tuple[int, ...]
    worst: float
    """Largest absolute difference; 0 where the array is identical."""
    cosine: float | None
    """Smallest cosine of two rows; None where rows are no vectors."""
    atol: float
    agrees: bool
    rtol: float = 0.0


def compare(name: str, found: np.ndarray, wanted: np.ndarray, atol: float, rtol: float = 0.0) -> Agreement:
    """Hold one array against the reference's."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape:
        return Agreement(name, wanted.shape, float("inf"), None, atol, agrees=False)
    if wanted.dtype.kind not in "fiu":
        same = bool((found == wanted).all())
        return Agreement(name, wanted.shape, 0.0 if same else float("inf"), None, atol, same)
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    worst = float(np.abs(a - b).max(initial=0.0))
    cosine = None
    if atol > 0 and wanted.ndim > 1 and wanted.dtype.kind == "f":
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        some = norms > 0
        if some.any():
            cosine = float(((a * b).sum(axis=-1)[some] / norms[some]).min())
    near = bool((np.abs(a - b) <= atol + rtol * np.abs(b)).all())
    return Agreement(name, wanted.shape, worst, cosine, atol, near and (cosine is None or cosine >= LEAST_COSINE), rtol)


def compare_run(folder: Path, device: str = "cpu") -> tuple[list[Agreement], dict[str, str]]:
    """Every array of a fixture: those compared, and those that are not, with the reason."""
    run = Run.open(folder, device)
    rows, seen = [], set()
    for name, found, *tolerance in RUNS[folder.name](run):
        seen.add(name)
        if not _selects(name):
            rows.append(compare(name, found, run.expected[name], *tolerance))
    left = {name: "only which cells or positions the arrays beside them hold" for name in seen if _selects(name)}
    left |= dict.fromkeys(sorted(set(run.expected) - seen), "no counterpart here yet")
    return rows, left


def _selects(name: str) -> bool:
    return name.endswith(SELECTIONS)


def default_golden() -> Path:
    """``SCFM_GOLDEN``, else the folder beside the repository."""
    named = os.environ.get("SCFM_GOLDEN")
    return Path(named) if named else ROOT.parent / "shared" / "golden"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return "identical" if value == 0 else f"{value:.1e}"


def _allowed(row: Agreement) -> str:
    if row.rtol:
        return (
            f"{row.rtol:.0e} of the value" if row.atol < row.rtol else f"{row.atol:.0e} + {row.rtol:.0e} of the value"
        )
    return f"{row.atol:.0e}" if row.atol else "0"


def as_markdown(results: dict[str, tuple[list[Agreement], dict[str, str]]]) -> str:
    """The page of the documentation."""
    import platform

    import torch

    lines = [
        "# Agreement with the references",
        "",
        "Every array that the reference implementations left behind for small checkpoints (random weights, real cells), held",
        "against what the lab gives on a CPU in float32. Written by `python benchmarks/agreement.py --write",
        "docs/models/agreement.md`; `tests/golden/test_agreement.py` runs the same comparison.",
        "",
        "*Allowed* is the tolerance of the fixture, its absolute part never more than 1e-4; 0 means identical. Expected counts",
        "(`mu_…`), which run into the hundreds, may differ by 1e-5 of their value besides, so that their worst difference can be",
        "above 1e-4; their fixture allows 5e-4 and 1e-3 of the value. *Cosine* is the smallest of two rows, and must be at least",
        f"{LEAST_COSINE}.",
        "",
        f"Measured with torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}.",
        "",
        "| fixture | arrays compared | identical | worst difference | worst cosine | in agreement |",
        "|---|---|---|---|---|---|",
    ]
    for name, (rows, left) in results.items():
        floats = [r.worst for r in rows if r.atol > 0]
        cosines = [r.cosine for r in rows if r.cosine is not None]
        lines.append(
            f"| [{name}](#{name}) | {len(rows)} of {len(rows) + len(left)} | {sum(r.worst == 0 for r in rows)} | "
            f"{_number(max(floats, default=0.0))} | {min(cosines, default=1.0):.8f} | "
            f"{sum(r.agrees for r in rows)} of {len(rows)} |"
        )
    for name, (rows, left) in results.items():
        lines += ["", f"## {name}", "", "| array | shape | worst difference | allowed | cosine | |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [
            f"| `{r.name}` | {' × '.join(f'{n:,}' for n in r.shape)} | {_number(r.worst)} | "
            f"{_allowed(r)} | {'' if r.cosine is None else f'{r.cosine:.8f}'} | "
            f"{'agrees' if r.agrees else '**differs**'} |"
            for r in rows
        ]
        for why in dict.fromkeys(left.values()):
            names = ", ".join(f"`{key}`" for key in sorted(left) if left[key] == why)
            lines += ["", f"Not compared: {names} ({why})."]
    return "\n".join(lines) + "\n"


@click.command(help=__doc__)
@click.option("--golden", type=click.Path(path_type=Path), default=None, help="Folder of the reference outputs.")
@click.option("--write", "target", type=click.Path(path_type=Path), default=None, help="Write the page there.")
@click.option("--device", default="cpu", show_default=True, help="Where the lab computes; the page is the CPU's.")
@click.option("--only", multiple=True, type=click.Choice(list(RUNS)), help="Only these fixtures.")
def main(golden: Path | None, target: Path | None, device: str, only: tuple[str, ...]) -> None:
    """Print the table; exit with 1 where an array differs or has no counterpart."""
    golden = golden or default_golden()
    if not golden.is_dir():
        raise click.ClickException(f"There is no folder {golden}; name it with --golden or SCFM_GOLDEN.")
    if target and device != "cpu":
        raise click.ClickException("The page holds what a CPU gives; leave --write or --device out.")
    results, wrong = {}, 0
    for name in only or RUNS:
        if not (golden / name).is_dir():
            click.echo(f"{name:18} not there")
            continue
        started = time.perf_counter()
        rows, left = results[name] = compare_run(golden / name, device)
        differ = [r for r in rows if not r.agrees]
        unknown = [k for k, why in left.items() if "yet" in why]
        wrong += len(differ) + len(unknown)
        worst = max((r.worst for r in rows if r.atol > 0), default=0.0)
        click.echo(
            f"{name:18} {len(rows) - len(differ)} of {len(rows)} arrays agree, worst difference {worst:.1e} "
            f"({time.perf_counter() - started:.1f} s)"
        )
        for r in differ:
            click.echo(f"    {r.name} {r.shape}: {r.worst:.2e} of {r.atol:g} allowed, cosine {r.cosine}")
        for k in unknown:
            click.echo(f"    {k}: {left[k]}")
    if target is not None:
        target.write_text(as_markdown(results), encoding="utf-8")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
