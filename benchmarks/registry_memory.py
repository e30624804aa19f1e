"""How well the registry's memory tags hold: beside the peak that `scfm-lab models measure` then finds, for every family.

A checkpoint of published size with drawn weights is written and imported into a registry of its own, as a user imports it; its tag
`scfm.mem.cpu.peak_mib` is the estimate. Then the registry measures the version, in the fresh process in which it measures any, and the
peak of that whole process is what was needed. The estimate shall lie between that and twice that.

python benchmarks/registry_memory.py --size starter --size scbert --size geneformer-v1-10m
python benchmarks/registry_memory.py --precision float32 --precision auto

With --catalog nothing is measured: each checkpoint of the catalogue whose memory stands there is written with its published shapes, and
what the registry estimates of it is put beside that.

python benchmarks/registry_memory.py --catalog
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import published_sizes

BUILT_IN = ("pca", "sctop", "starter")
#: Sizes of entries of the catalogue that are called otherwise there.
SIZE_OF = {
    "scgpt-human": "scgpt",
    "scgpt-continual": "scgpt",
    "geneformer-v2-104m-clcancer": "geneformer-v2-104m",
    "tf-sapiens": "transcriptformer",
}


@click.command(help=__doc__)
@click.option(
    "--size", "sizes", multiple=True, help="A built-in model, or a size of published_sizes.py [default: all]."
)
@click.option(
    "--precision", "precisions", multiple=True, default=("float32", "auto"), show_default=True, help="What is measured."
)
@click.option("--cells", default=64, show_default=True, help="Cells of a measurement, of the bundled ones.")
@click.option("--repeats", default=1, show_default=True)
@click.option("--dataset", default="pbmc3k_raw", show_default=True, help="Whose genes the checkpoints know.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where checkpoints and registries lie for a while.")
@click.option("--catalog", "of_catalog", is_flag=True, help="Estimate what the catalogue tells, and measure nothing.")
@click.option("--json", "as_json", is_flag=True)
def main(
    sizes: tuple[str, ...],
    precisions: tuple[str, ...],
    cells: int,
    repeats: int,
    dataset: str,
    folder: Path | None,
    of_catalog: bool,
    as_json: bool,
) -> None:
    """Print a row for each model and precision; exit 1 where one lies outside."""
    if of_catalog:
        catalogue(sizes, dataset, folder, as_json=as_json)
        return
    rows = []
    for name in sizes or (*BUILT_IN, *published_sizes.SIZES):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            os.environ["SCFM_HOME"] = str(Path(work) / "home")
            for row in of(name, Path(work), dataset, precisions, cells, repeats):
                rows.append(row)
                if not as_json:
                    click.echo(
                        f"{row['model']:20} {row['precision']:8} tag {row['estimated_mib']:7,} MiB   measured "
                        f"{row['measured_mib']:7,} (before opening {row['before_mib']:,})   ratio {row['ratio']:.2f}   "
                        f"{row['seconds']:.0f} s"
                    )
    if as_json:
        click.echo(json.dumps(rows))
    outside = [row["model"] for row in rows if not 1 <= row["ratio"] <= 2]
    if outside:
        raise click.ClickException(f"not between 1 and 2: {', '.join(outside)}")


def catalogue(sizes: tuple[str, ...], dataset: str, folder: Path | None, *, as_json: bool) -> None:
    """Print what is estimated of each published checkpoint beside what the catalogue says; exit 1 where they differ."""
    import scfm_lab as sl
    from scfm_registry import Registry
    from scfm_registry.catalog import catalog

    entries = [item for item in catalog() if item.memory_mib is not None]
    rows = []
    for size in sizes or dict.fromkeys(SIZE_OF.get(item.id, item.id) for item in entries):
        with tempfile.TemporaryDirectory(dir=folder) as work:
            os.environ["SCFM_HOME"] = str(Path(work) / "home")
            source, config = published_sizes.write(
                size, Path(work) / "checkpoint", sl.datasets.load(dataset), exactly=True
            )
            registry = Registry(Path(work) / "registry")
            found = registry.import_checkpoint(source, "mine", config=config, certify=False)
            # UCE's proteins lie beside its weights, and are smaller.
            files = (file.stat().st_size for file in registry.resolve(found.reference).path.rglob("*.safetensors"))
            weights, estimated = round(max(files) / 2**20), int(found.tags["scfm.mem.cpu.peak_mib"])
        for item in entries:
            if SIZE_OF.get(item.id, item.id) == size:
                row = {"id": item.id, "weights_mib": weights, "memory_mib": estimated}
                rows.append({**row, "said_weights_mib": item.weights_mib, "said_memory_mib": item.memory_mib})
                if not as_json:
                    click.echo(
                        f"{item.id:28} weights {weights:6,} MiB (said {item.weights_mib:6,})   "
                        f"memory {estimated:6,} MiB (said {item.memory_mib:6,})"
                    )
    if as_json:
        click.echo(json.dumps(rows))
    wrong = [
        row["id"]
        for row in rows
        # Numbers of parameters are published rounded.
        if row["memory_mib"] != row["said_memory_mib"] or abs(row["weights_mib"] / row["said_weights_mib"] - 1) > 0.01
    ]
    if wrong:
        raise click.ClickException(f"the catalogue says otherwise: {', '.join(wrong)}")


def of(
    name: str, work: Path, dataset: str, precisions: tuple[str, ...], cells: int, repeats: int
) -> list[dict[str, Any]]:
    """Import, read the tag, measure."""
    import scfm_lab as sl
    from scfm_registry import Registry

    registry = Registry(work / "registry")
    if name in BUILT_IN:
        found = registry.get(name)
    else:
        source, config = published_sizes.write(name, work / "checkpoint", sl.datasets.load(dataset))
        found = registry.import_checkpoint(source, name, config=config, certify=False)
        shutil.rmtree(work / "checkpoint")
    estimated = int(found.tags["scfm.mem.cpu.peak_mib"])
    rows = []
    for precision in precisions:
        started = time.perf_counter()
        evidence = registry.measure(
            found.reference, device="cpu", precision=precision, cells=cells, repeats=repeats
        ).evidence
        memory = evidence["memory"]
        rows.append(
            {
                "model": name,
                "precision": precision,
                "chosen": evidence["settings"]["precision"],
                "estimated_mib": estimated,
                "measured_mib": memory["peak_mib"],
                "before_mib": memory["before_mib"],
                "ratio": round(estimated / memory["peak_mib"], 3),
                "weights_mib": (found.weight_bytes or 0) >> 20,
                "parameters": found.parameters,
                "seconds": time.perf_counter() - started,
            }
        )
    return rows


if __name__ == "__main__":
    main()
