"""The command line: every command as a user types it, its files, its exit codes and its sentences."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anndata as ad
import click
import numpy as np
import pandas as pd
import pytest

import scfm_lab as sl
from scfm_lab import plugins
from scfm_lab.cli import cli, main
from scfm_lab.cli.files import whole
from scfm_lab.cli.options import parse_doses
from scfm_lab.errors import StorageError
from scfm_lab.tasks.layout import umap_plane, write_plane

if TYPE_CHECKING:
    from pathlib import Path

MODEL = "example.modules"


@pytest.fixture
def cells(pbmc68k: ad.AnnData, tmp_path: Path) -> Path:
    """A file with the bundled cells."""
    path = tmp_path / "cells.h5ad"
    pbmc68k.write_h5ad(path)
    return path


@pytest.fixture
def few_cells(pbmc68k: ad.AnnData, tmp_path: Path) -> Path:
    """A file with each seventh of them."""
    path = tmp_path / "few.h5ad"
    pbmc68k[::7].copy().write_h5ad(path)
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], example_plugins: Path):
    """Run a command line; give its exit code, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_one_sentence(text: str) -> bool:
    return (
        text.startswith("Error: ")
        and text.count("\n") == 1
        and "Traceback" not in text
        and text.rstrip().endswith((".", "?"))
    )


def command_paths() -> list[tuple[str, ...]]:
    """All commands of our own, with the commands of groups."""
    return list(commands())


def commands() -> dict[tuple[str, ...], click.Command]:
    """The same with what they are."""
    context = click.Context(cli)
    found: dict[tuple[str, ...], click.Command] = {}

    def walk(command: click.Command, path: tuple[str, ...]) -> None:
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                child = command.get_command(context, name)
                assert child is not None
                walk(child, (*path, name))
        else:
            found[path] = command

    for item in plugins.discover(refresh=True).contributions("commands"):
        if item.plugin.startswith("scfm"):
            walk(item.load(), (str(item.data["name"]),))
    return found


# --- the program -----------------------------------------------------------------------


def test_help_lists_the_commands_in_the_order_of_the_work(run):
    code, out, _ = run("--help")
    assert code == 0
    names = [
        "demo",
        "doctor",
        "lab",
        "models",
        "audit",
        "embed",
        "annotate",
        "perturb",
        "impute",
        "trajectory",
        "plugins",
    ]
    places = [out.index(f"\n  {name} ") for name in names]
    assert places == sorted(places)
    assert "Plugins with an error: broken." in out


def test_help_imports_nothing_heavy():
    heavy = ["torch", "scanpy", "anndata", "mlflow", "pandas", "numpy", "scipy", "sklearn", "altair", "tqdm"]
    code = f"import sys\nfrom scfm_lab.cli import main\nmain(['--help'])\nsys.exit(str([n for n in {heavy!r} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"


def test_every_command_has_help_with_an_example(run):
    paths = command_paths()
    assert {("embed",), ("plugins", "list"), ("models", "list"), ("demo",)} <= set(paths)
    for path in paths:
        code, out, _ = run(*path, "--help")
        assert code == 0
        assert f"  scfm-lab {' '.join(path)}" in out, f"{path} has no example"


def test_no_command_takes_an_option_that_it_does_not_use():
    for path, command in commands().items():
        function = inspect.unwrap(command.callback)
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        used = {node.id for line in tree.body for node in ast.walk(line) if isinstance(node, ast.Name)}
        taken = {argument.arg for argument in (*tree.args.args, *tree.args.kwonlyargs)}
        if tree.args.kwarg is not None:
            taken.add(tree.args.kwarg.arg)
        assert taken <= used, f"{' '.join(path)} drops {sorted(taken - used)}"


@pytest.mark.parametrize("words", [[], ["models"], ["registry"], ["plugins"], ["cache"]], ids=" ".join)
def test_no_line_of_help_is_cut(run, words):
    _, out, _ = run(*words, "--help")
    listed = out.partition("Commands:\n")[2].partition("Examples:")[0]
    assert len(listed.splitlines()) > 2
    assert "..." not in listed


def test_every_command_that_prints_a_result_offers_json(run):
    for path in (
        ("doctor",),
        ("audit",),
        ("embed",),
        ("annotate",),
        ("perturb",),
        ("response-curves",),
        ("impute",),
        ("trajectory",),
        ("compare",),
        ("trends",),
        ("similar-genes",),
        ("changed-genes",),
        ("attention",),
        ("plugins", "list"),
    ):
        assert "--json" in run(*path, "--help")[1]


def test_the_module_runs_as_the_program_does():
    done = subprocess.run([sys.executable, "-m", "scfm_lab", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"scfm-lab {sl.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embd"], "There is no command 'embd'. Did you mean 'embed'?"),
        (["embed"], "Missing argument 'IN.h5ad'."),
        (["embed", "no-such.h5ad", "--model", MODEL, "-o", "o.h5ad"], "'no-such.h5ad' does not exist."),
        (["embed", "CELLS", "-o", "o.h5ad"], "Missing option '--model'."),
        (["embed", "CELLS", "--model", MODEL, "-o", "o.h5ad", "--colour"], "No such option '--colour'"),
        (["embed", "CELLS", "--model", MODEL, "-o", "o.csv"], "'o.csv' must end in .h5ad."),
        (["embed", "CELLS", "--model", MODEL, "-o", "o.h5ad", "--batch-size", "0"], "0 is not in the range x>=1."),
        (["perturb", "CELLS", "--model", MODEL], "Give at least one gene, such as --gene CD3D=0."),
        (["perturb", "CELLS", "--model", MODEL, "--gene", "CD3D"], "'CD3D' is not GENE=DOSE"),
        (["perturb", "CELLS", "--model", MODEL, "--gene", "CD3D=-1"], "the dose of CD3D must be 0 or more"),
        (
            ["perturb", "CELLS", "--model", MODEL, "--gene", "CD3D=low"],
            "must be a number such as 0, 0.5 or 2; it is 'low'.",
        ),
        (["perturb", "CELLS", "--model", MODEL, "--gene", "CD3D=nan"], "the dose of CD3D must be 0 or more"),
        (
            ["perturb", "CELLS", "--model", MODEL, "--gene", "CD3D=1e9"],
            "the dose of CD3D is 1e9; at most 1,000 makes sense",
        ),
        (["impute", "CELLS", "--model", MODEL, "--gene", "LYZ"], "Missing option '-o'"),
        (["impute", "CELLS", "--model", MODEL, "--gene", "LYZ", "--gene", "LYZ", "-o", "o.h5ad"], "given twice"),
        (["perturb", "CELLS", "--model", MODEL, "--gene", "LYZ=0", "--gene", "LYZ=2"], "LYZ is given twice"),
        (["perturb", "CELLS", "--model", MODEL, "--gene", "LYZ=0", "-o", "o.xlsx"], "'o.xlsx' must end in .csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_line_that_makes_no_sense_is_a_usage_error(run, cells, words, said):
    code, out, err = run(*(str(cells) if word == "CELLS" else word for word in words))
    assert (code, out) == (2, ""), err
    assert said in err
    assert is_one_sentence(err)
    assert "--help'." in err


def test_doses_are_read_as_they_are_written():
    assert parse_doses(None, None, ("GATA1=0", " SPI1 = 2.5 ", "A=B=1e-1")) == {"GATA1": 0.0, "SPI1": 2.5, "A=B": 0.1}


def test_a_command_that_returns_something_ends_well(run, monkeypatch):
    def command() -> bool:
        return True

    monkeypatch.setitem(sys.modules, "scfm_lab.cli.start", type(sys)("start"))
    sys.modules["scfm_lab.cli.start"].lab = click.Command("lab", callback=command)  # type: ignore[attr-defined]
    assert run("lab")[0] == 0


# --- failures --------------------------------------------------------------------------


def test_a_failure_is_one_sentence_and_a_traceback_only_on_request(run, cells, tmp_path):
    words = ["embed", cells, "--model", "no-such-model", "-o", tmp_path / "o.h5ad"]
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert "No model is called 'no-such-model'; models here: " in err
    assert is_one_sentence(err)
    for debugged in (["--debug", *words], [*words, "--debug"]):
        code, _, err = run(*debugged)
        assert code == 1
        assert "Traceback (most recent call last)" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad"]


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_text(path: Path) -> None:
    path.write_text("cell,gene\n")


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_without_x(path: Path) -> None:
    import h5py

    with h5py.File(path, "a") as file:
        del file["obs"]
        file["obs"] = np.zeros(3)


def damage_indices(path: Path) -> None:
    import h5py

    with h5py.File(path, "a") as file:
        del file["X/indptr"]


@pytest.mark.parametrize("damage", [damage_truncated, damage_text, damage_empty, damage_without_x, damage_indices])
def test_a_file_that_is_no_h5ad_is_one_sentence(run, cells, tmp_path, damage):
    damage(cells)
    code, out, err = run("embed", cells, "--model", MODEL, "-o", tmp_path / "o.h5ad")
    assert (code, out) == (1, "")
    assert f"Error: {cells} cannot be read as an .h5ad file: " in err
    assert is_one_sentence(err)
    assert not (tmp_path / "o.h5ad").exists()


@pytest.mark.parametrize("index", [10**6, -5])
def test_indices_of_genes_that_are_not_there_are_one_sentence(run, cells, tmp_path, index):
    import h5py

    with h5py.File(cells, "a") as file:
        file["X/indices"][7] = index
    code, out, err = run("embed", cells, "--model", MODEL, "-o", tmp_path / "o.h5ad")
    assert (code, out) == (1, "")
    assert f"Error: /X of {cells} is damaged: it names columns that it does not have." in err
    assert err.count("\n") == 1
    assert not (tmp_path / "o.h5ad").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda a: setattr(a, "X", a.X.log1p()), "log", id="log-normalised"),
        pytest.param(lambda a: a.X.data.__setitem__(0, -1.0), "negative", id="negative"),
        pytest.param(lambda a: a.X.data.__setitem__(0, np.nan), "NaN", id="NaN"),
        pytest.param(
            lambda a: (
                setattr(a, "var_names", [f"x{i}" for i in range(a.n_vars)])
                or a.var.drop(columns=list(a.var), inplace=True)
            ),
            "known to modules",
            id="unknown genes",
        ),
    ],
)
def test_cells_that_cannot_be_embedded_write_nothing(run, pbmc68k, tmp_path, spoil, said):
    pbmc68k.raw = None
    spoil(pbmc68k)
    pbmc68k.write_h5ad(tmp_path / "bad.h5ad")
    target = tmp_path / "o.h5ad"
    target.write_text("kept")
    code, _, err = run("embed", tmp_path / "bad.h5ad", "--model", MODEL, "-o", target)
    assert code == 1
    assert said in err
    assert is_one_sentence(err)
    assert target.read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 2


# --- files -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["same", "dotted", "symlink", "hardlink"])
def test_the_input_is_never_overwritten(run, cells, tmp_path, way):
    before = digest(cells)
    target = {
        "same": cells,
        "dotted": tmp_path / "." / "cells.h5ad",
        "symlink": tmp_path / "s.h5ad",
        "hardlink": tmp_path / "h.h5ad",
    }[way]
    if way == "symlink":
        target.symlink_to(cells)
    if way == "hardlink":
        target.hardlink_to(cells)
    code, _, err = run("embed", cells, "--model", MODEL, "-o", target)
    assert code == 2
    assert "the input is never overwritten" in err
    assert digest(cells) == before


def test_a_folder_that_is_not_there_is_told_before_any_work(run, cells, tmp_path):
    code, _, err = run("embed", cells, "--model", MODEL, "-o", tmp_path / "no" / "o.h5ad")
    assert code == 1
    assert "does not exist; make it first" in err


def test_whole_leaves_the_target_as_it_was_when_writing_fails(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")

    def write_half() -> None:
        with whole(target) as temporary:
            temporary.write_text("new, but not compl")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        write_half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    with whole(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path):
    code = f"""
import resource, signal, sys
from pathlib import Path
from scfm_lab.cli.files import whole
from scfm_lab.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with whole(Path({str(tmp_path / "out.csv")!r})) as temporary, temporary.open("wb", buffering=0) as file:
        for _ in range(4):
            file.write(bytes(400))
except StorageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "out.csv cannot be written: " in done.stdout
    assert "nothing was changed." in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_read_only_folder_is_told_before_any_work(run, cells, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    code, _, err = run("embed", cells, "--model", MODEL, "-o", folder / "o.h5ad")
    assert code == 1
    assert "cannot be written to" in err


def test_whole_reports_what_it_cannot_write(tmp_path):
    with (
        pytest.raises(StorageError, match="cannot be written: No such file or directory; nothing was changed"),
        whole(tmp_path / "no" / "x") as temporary,
    ):
        temporary.write_text("")


# --- the tasks -------------------------------------------------------------------------


def test_audit_tells_what_the_library_tells(run, cells, pbmc68k):
    wanted = sl.audit_genes(pbmc68k, sl.load_model(MODEL), groupby="cell_type")
    code, out, err = run("audit", cells, "--model", MODEL, "--groupby", "cell_type", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    pd.testing.assert_frame_equal(pd.DataFrame(told["table"]), wanted.table, check_dtype=False)
    made = told["provenance"]
    assert (made["task"], made["source"], made["arguments"]) == ("audit", MODEL, {"groupby": "cell_type"})
    assert made["umi_share_lost"] == pytest.approx(wanted.umi_share_lost)
    assert run("audit", cells, "--model", MODEL)[1].strip() == sl.audit_genes(pbmc68k, sl.load_model(MODEL)).summary()


def test_audit_takes_the_options_of_the_family_and_no_others(run, cells):
    code, _, err = run("audit", cells, "--model", MODEL, "--option", "nonsense=1")
    assert code == 1
    assert "nonsense" in err


def test_embed_writes_the_vectors_beside_everything_that_was_there(run, cells, pbmc68k, tmp_path):
    before = digest(cells)
    code, out, err = run("embed", cells, "--model", MODEL, "-o", tmp_path / "o.h5ad", "--key", "X_mine", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["key"], told["cells"], told["width"]) == ("X_mine", 700, 15)
    written = ad.read_h5ad(tmp_path / "o.h5ad")
    np.testing.assert_array_equal(written.obsm["X_mine"], sl.embed(pbmc68k, MODEL, progress=False).vectors)
    assert written.uns["scfm"]["X_mine"]["weights_sha256"] == sl.load_model(MODEL).digest
    assert (written.X != pbmc68k.X).nnz == 0
    pd.testing.assert_frame_equal(written.obs, pbmc68k.obs, check_categorical=False)
    assert set(written.obsm) == {*pbmc68k.obsm, "X_mine"} - {"X_modules"}
    assert digest(cells) == before


def test_embed_plans_and_writes_nothing(run, cells, pbmc68k, tmp_path):
    code, out, err = run("embed", cells, "--model", MODEL, "--plan", "--json")
    assert (code, err) == (0, "")
    told, wanted = json.loads(out), sl.plan(pbmc68k, MODEL)
    assert (told["device"], told["precision"], told["cells"]) == (wanted.device, wanted.precision, 700)
    assert (told["batch_tokens"], told["fit"]["verdict"]) == (wanted.batch_tokens, wanted.fit.verdict)
    assert (told["provenance"]["task"], told["provenance"]["model"]) == ("plan", "modules")
    assert list(tmp_path.glob("*.h5ad")) in ([], [cells])
    code, _, err = run("embed", cells, "--model", MODEL)
    assert code == 2
    assert "with --plan nothing is written" in err


def test_embed_lays_cells_out_as_the_bench_does(run, pbmc68k, tmp_path):
    few = pbmc68k[:40].copy()
    few.write_h5ad(tmp_path / "few.h5ad")
    words = ["embed", tmp_path / "few.h5ad", "--model", MODEL, "-o", tmp_path / "o.h5ad", "--umap", "--json"]
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    key = json.loads(out)["layout"]
    written = ad.read_h5ad(tmp_path / "o.h5ad")
    vectors = sl.embed(few, MODEL, progress=False).vectors
    np.testing.assert_allclose(written.obsm[key], umap_plane(vectors), atol=1e-4)
    write_plane(few, "X_modules", written.obsm[key])
    told, wanted = written.uns["scfm"][key], few.uns["scfm"][key]
    assert (key, told["slot"]) == ("X_umap_modules", "obsm")
    assert {name: told[name] for name in ("task", "of", "method", "seed", "model")} == {
        name: wanted[name] for name in ("task", "of", "method", "seed", "model")
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.h5ad", "o.h5ad"]


def test_embed_keeps_a_key_that_is_not_ours(run, cells, tmp_path):
    code, _, err = run("embed", cells, "--model", MODEL, "-o", tmp_path / "o.h5ad", "--key", "X_umap")
    assert code == 1
    assert "choose another" in err
    assert not (tmp_path / "o.h5ad").exists()


def test_progress_goes_to_standard_error_when_asked_for(run, cells, tmp_path):
    words = ["embed", cells, "--model", MODEL, "-o", tmp_path / "o.h5ad", "--json"]
    _, out, err = run(*words, "--progress")
    assert "700/700" in err
    assert json.loads(out)["cells"] == 700
    assert run(*words)[2] == ""


def test_annotate_labels_cells_as_the_library_does(run, pbmc68k, tmp_path):
    query, reference = pbmc68k[::4].copy(), pbmc68k[1::4].copy()
    query.write_h5ad(tmp_path / "query.h5ad")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    wanted = sl.annotate(query, reference, labels_key="cell_type", model=MODEL, key_added="label", progress=False)
    words = ["annotate", tmp_path / "query.h5ad", "--reference", tmp_path / "reference.h5ad", "--labels", "cell_type"]
    code, out, err = run(*words, "--model", MODEL, "--key", "label", "-o", tmp_path / "o.h5ad", "--json")
    assert (code, err) == (0, "")
    written = ad.read_h5ad(tmp_path / "o.h5ad")
    assert list(written.obs["label"].astype(str)) == list(map(str, wanted.labels))
    assert (written.obs["label"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.5
    assert json.loads(out)["written"] == str(tmp_path / "o.h5ad")
    assert "macro-F1 beside parameter-free methods" in json.loads(out)["summary"]
    code, _, err = run(*words[:-1], "cell_typ", "--model", MODEL, "-o", tmp_path / "p.h5ad")
    assert code == 1
    assert "Did you mean 'cell_type'" in err


def test_annotate_does_what_its_options_say(run, pbmc68k, tmp_path):
    query, reference = pbmc68k[::4].copy(), pbmc68k[1::4].copy()
    reference.obs["donor"] = np.array(["a", "b", "c"])[np.arange(reference.n_obs) % 3]
    query.write_h5ad(tmp_path / "query.h5ad")
    reference.write_h5ad(tmp_path / "reference.h5ad")
    term = '[Term]\nid: CL:0000236\nname: B lymphocyte\nsynonym: "CD19+ B" EXACT []\n'
    (tmp_path / "small.obo").write_text(f"format-version: 1.2\nontology: cl\n\n{term}", encoding="utf-8")
    words = ["annotate", tmp_path / "query.h5ad", "--reference", tmp_path / "reference.h5ad", "--labels", "cell_type"]
    words += ["--model", MODEL, "--key", "label", "-o", tmp_path / "o.h5ad", "--json"]
    more = ["--method", "linear", "--sample", "donor", "--harmonise", tmp_path / "small.obo", "--no-beside"]
    code, out, err = run(*words, *more)
    assert (code, err) == (0, "")
    told = json.loads(out)
    given = {"labels_key": "cell_type", "model": MODEL, "beside": False, "progress": False}
    neighbours = sl.annotate(query.copy(), reference, **given)
    linear = sl.annotate(query.copy(), reference, method="linear", **given)
    labels = ad.read_h5ad(tmp_path / "o.h5ad").obs["label"].astype(str)
    renamed = np.array([str(x).replace("CD19+ B", "B lymphocyte") for x in linear.labels])
    # Samples that are held out move the threshold of 'unknown', and nothing else of a label.
    same = (labels.to_numpy() != "unknown") & (renamed != "unknown")
    assert same.mean() > 0.5
    assert (labels.to_numpy()[same] == renamed[same]).all()
    assert (linear.labels != neighbours.labels).any()
    assert (labels == "B lymphocyte").any()
    assert told["provenance"]["sample_key"] == "donor"
    assert told["provenance"]["held_out"] == "samples held out"
    assert "beside parameter-free methods" not in told["summary"]
    code, _, err = run(*words[:-2], tmp_path / "p.h5ad", "--method", "head")
    assert code == 1
    assert "has no head of its own" in err
    for asked in (["--method", "linear"], ["--sample", "donor"]):
        code, _, err = run("annotate", tmp_path / "query.h5ad", "--model", MODEL, "-o", tmp_path / "p.h5ad", *asked)
        assert code == 2
        assert "needs --reference REF.h5ad" in err


def test_perturb_writes_the_librarys_table(run, cells, pbmc68k, tmp_path):
    words = ["perturb", cells, "--model", MODEL, "--gene", "CD79A=0", "--groupby", "cell_type", "--null-genes", "19"]
    code, out, err = run(*words, "-o", tmp_path / "o.csv", "--json")
    assert (code, err) == (0, "")
    wanted = sl.perturb(pbmc68k, MODEL, {"CD79A": 0.0}, groupby="cell_type", n_null=19, progress=False).table
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "o.csv"), wanted, check_dtype=False, rtol=1e-6)
    # What it says about the biology: only B cells have CD79A to lose.
    effects = wanted.set_index("group")["effect"].dropna()
    assert "B" in effects.idxmax()
    assert len(json.loads(out)["table"]) == len(wanted)
    # Without a file the table is printed, and nothing is written.
    code, out, _ = run(*words)
    assert code == 0
    assert "CD79A" in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "o.csv"]


def test_perturb_suggests_the_gene_that_was_meant(run, cells):
    code, _, err = run("perturb", cells, "--model", MODEL, "--gene", "CD79AA=0", "--no-null")
    assert code == 1
    assert "CD79A" in err
    assert is_one_sentence(err)


def test_perturb_writes_tab_separated_and_packed_tables(run, cells, tmp_path):
    tables = []
    for name, separator in (("o.csv", ","), ("o.tsv", "\t"), ("o.csv.gz", ",")):
        assert run("perturb", cells, "--model", MODEL, "--gene", "LYZ=0.5", "--no-null", "-o", tmp_path / name)[0] == 0
        tables.append(pd.read_csv(tmp_path / name, sep=separator))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_a_table_without_null_has_no_empty_columns(run, cells):
    code, out, _ = run("perturb", cells, "--model", "pca", "--gene", "CD3D=0", "--no-null", "--groupby", "cell_type")
    assert code == 0
    header = out.partition("\n\n")[2].splitlines()[0].split()
    assert header == ["gene", "group", "readout", "effect", "effect_expressing", "n_cells", "n_expressing", "n_changed"]
    assert "null not computed" not in out.partition("\n\n")[2]


def test_compare_writes_the_librarys_table(run, cells, pbmc68k, tmp_path):
    from scfm_lab.tasks.compare import compare

    words = ["compare", cells, "--model", "pca", "--against", "sctop", "--groupby", "cell_type"]
    code, out, err = run(*words, "-o", tmp_path / "o.csv", "--json")
    assert (code, err) == (0, "")
    wanted = compare(pbmc68k, "pca", "sctop", groupby="cell_type", progress=False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "o.csv"), wanted.table, check_dtype=False, rtol=1e-6)
    told = json.loads(out)
    assert told["models"] == list(wanted.models)
    assert told["provenance"]["groupby"] == "cell_type"
    code, _, err = run(*words[:4], "--against", "sctopp")
    assert code == 1
    assert "sctopp" in err
    assert is_one_sentence(err)


def test_compare_opens_and_asks_each_model_in_its_own_way(run, few_cells):
    words = ["compare", few_cells, "--model", "pca", "--against", "starter"]
    overlap = []
    for asked in ([], ["--against-option", "max_length=24"]):
        code, out, err = run(*words, *asked, "--json")
        assert (code, err) == (0, "")
        told = json.loads(out)
        overlap.append(told["table"][0]["overlap"])
    assert told["provenance"]["of"][1]["options"]["max_length"] == 24
    assert overlap[0] != overlap[1], "with fewer genes it is another embedding"
    code, _, err = run(*words, "--option", "max_length=24")
    assert code == 1
    assert "max_length" in err, "pca has no such option"
    for option in ("--config", "--against-config"):
        code, _, err = run(*words, option, "nowhere=1")
        assert code == 1
        assert "nowhere" in err
        assert is_one_sentence(err)


def test_response_curves_writes_the_librarys_table(run, few_cells, pbmc68k, tmp_path):
    words = ["response-curves", few_cells, "--model", "pca", "--gene", "CD3D", "--gene", "LYZ", "--cells", "20"]
    asked = ["--dose", "0", "--dose", "0.5", "--dose", "2", "--check-dose", "0.25", "--draws", "1", "--seed", "3"]
    code, out, err = run(*words, *asked, "-o", tmp_path / "o.csv", "--json")
    assert (code, err) == (0, "")
    few = pbmc68k[::7].copy()
    wanted = sl.response_curves(
        few,
        "pca",
        ["CD3D", "LYZ"],
        doses=(0, 0.5, 2),
        check_doses=(0.25,),
        cells=20,
        n_draws=1,
        seed=3,
        progress=False,
    )
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "o.csv"), wanted.table, check_dtype=False, rtol=1e-6)
    told = json.loads(out)
    assert [row["dose"] for row in told["error"]] == [0.25, 0.25]
    assert told["error"][0]["error"] == pytest.approx(wanted.error["error"].iloc[0])
    assert told["provenance"]["genes"] == ["CD3D", "LYZ"]
    code, _, err = run(*words[:4], "--gene", "CD33D")
    assert code == 1
    assert is_one_sentence(err)


def test_impute_writes_what_the_library_predicts(run, cells, pbmc68k, tmp_path):
    before = digest(cells)
    out = tmp_path / "imputed.h5ad"
    words = ("impute", cells, "--model", "starter", "--gene", "CD3D", "--gene", "LYZ", "-o", out, "--json")
    code, text, err = run(*words)
    assert (code, err) == (0, "")
    told = json.loads(text)
    expected = sl.impute(pbmc68k, "starter", genes=["CD3D", "LYZ"], progress=False)
    written = ad.read_h5ad(out)
    assert list(written.obsm["imputed_starter"].columns) == ["CD3D", "LYZ"]
    np.testing.assert_allclose(written.obsm["imputed_starter"].to_numpy(), expected.values, rtol=1e-6)
    assert written.uns["scfm"]["imputed_starter"]["imputed"]
    assert [row["gene"] for row in told["table"]] == ["CD3D", "LYZ"]
    assert told["table"][1]["mean"] == pytest.approx(expected.table["mean"][1], rel=1e-5)
    assert (told["written"], told["key"]) == (str(out), "imputed_starter")
    assert digest(cells) == before
    code, text, err = run("impute", cells, "--model", "starter", "--gene", "CD3DD", "-o", tmp_path / "none.h5ad")
    assert code == 1
    assert "starter does not know the gene 'CD3DD'. Did you mean 'CD3D'" in err
    code, _, err = run("impute", cells, "--model", "pca", "--gene", "CD3D", "-o", tmp_path / "none.h5ad")
    assert (code, "pca cannot predict expression" in err) == (1, True)
    assert not (tmp_path / "none.h5ad").exists()


def test_impute_without_a_gene_writes_a_layer(run, pbmc68k, tmp_path):
    few = tmp_path / "few.h5ad"
    pbmc68k[:20].copy().write_h5ad(few)
    code, text, _ = run("impute", few, "--model", "starter", "--key", "expected", "-o", tmp_path / "out.h5ad")
    assert code == 0
    assert "in layers['expected']" in text
    assert ad.read_h5ad(tmp_path / "out.h5ad").layers["expected"].shape == (20, pbmc68k.n_vars)


def test_trajectory_orders_cells_from_the_root(run, pbmc68k, tmp_path):
    sl.embed(pbmc68k, MODEL, progress=False)
    pbmc68k.write_h5ad(tmp_path / "in.h5ad")
    groups = pbmc68k.obs["cell_type"].astype(str)
    root = groups.value_counts().index[0]
    words = ["trajectory", tmp_path / "in.h5ad", "--groupby", "cell_type", "-o", tmp_path / "o.h5ad", "--json"]
    code, out, err = run(*words, "--rep", "X_modules", "--root", root)
    assert code == 0, err
    told = json.loads(out)
    assert told["table"][0]["group"] == root
    made = told["provenance"]
    assert (made["task"], made["use_rep"], made["groupby"]) == ("trajectory", "X_modules", "cell_type")
    assert made["of"]["model"] == "modules"
    written = ad.read_h5ad(tmp_path / "o.h5ad")
    time = next(
        written.obs[name]
        for name in written.obs
        if name.startswith("trajectory") and written.obs[name].dtype.kind == "f"
    )
    assert time[(groups == root).to_numpy()].median() == time.groupby(groups.to_numpy()).median().min()
    # Paths are laid on the plane that is named.
    code, _, err = run(*words, "--rep", "X_modules", "--root", root, "--basis", "X_umpa", "--no-twin")
    assert code == 1
    assert "Did you mean 'X_umap'" in err
    code, _, err = run(*words, "--rep", "X_modules", "--root", "no such group")
    assert code == 1
    assert "neither a cell nor a group" in err
    code, _, err = run(*words, "--rep", "X_modles", "--root", root)
    assert code == 1
    assert "X_modules" in err


def test_what_the_bench_tells_of_genes_is_told_as_well(run, pbmc68k, tmp_path):
    few = pbmc68k[::7].copy()
    few.obsm["X_plane"] = np.asarray(few.obsm["X_umap"])
    path = tmp_path / "few.h5ad"
    few.write_h5ad(path)

    def told(*words):
        code, out, err = run(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    model = sl.load_model("starter")
    alike = told("similar-genes", "CD3D", "--model", "starter", "--n", "5")
    assert alike["table"] == sl.similar_genes(model, "CD3D", n=5).to_json()["table"]
    assert alike["provenance"]["model"] == "starter"

    words = ["attention", path, "--model", "starter", "--gene", "CD3D", "--max-cells", "4", "--n", "3"]
    looked = told(*words)
    assert looked["cells"] == 4
    assert [row["direction"] for row in looked["table"]] == ["reads"] * 3 + ["is read by"] * 3
    code, _, err = run("attention", path, "--model", "pca", "--gene", "CD3D")
    assert code == 1
    assert "attention" in err

    changed = told("changed-genes", path, "--model", "starter", "--gene", "CD3D=0", "--n", "4")
    folds = [abs(row["log2_fold"]) for row in changed["table"]]
    assert folds == sorted(folds, reverse=True)
    assert changed["provenance"]["doses"] == {"CD3D": 0.0}
    assert "CD3D" not in [row["gene"] for row in changed["table"]]
    # More of a gene is drawn at the rate of a cell's group.
    more = ["changed-genes", path, "--model", "starter", "--gene", "CD3D=2", "--n", "4", "--draws", "1"]
    together, by_type = told(*more), told(*more, "--groupby", "cell_type")
    assert [one["provenance"]["groupby"] for one in (together, by_type)] == [None, "cell_type"]
    assert by_type["table"] != together["table"]

    walk = ["trends", path, "--rep", "X_plane", "--root", few.obs_names[0], "--draws", "5", "--points", "4"]
    out = tmp_path / "trends.csv"
    code, said, err = run(*walk, "--gene", "CD3D", "--gene", "LYZ", "-o", out)
    assert code == 0, err
    assert "bootstrap over" in said
    table = pd.read_csv(out, dtype={"path": str})
    assert set(table["gene"]) == {"CD3D", "LYZ"}
    ordered = sl.trajectory(few, use_rep="X_plane", root=few.obs_names[0], twin=False)
    expected = ordered.trends(few, ["CD3D", "LYZ"], n_points=4, n_boot=5).table
    pd.testing.assert_frame_equal(table, expected.astype({"path": str}), check_dtype=False)


# --- plugins, doctor, lab --------------------------------------------------------------


def scfm_lab_command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scfm_lab", *map(str, words)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_plugins_list_shows_a_broken_plugin_as_one_row(plugins_folder):
    done = scfm_lab_command("plugins", "list", "--json", PYTHONPATH=str(plugins_folder))
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.stdout)["plugins"]}
    assert rows["example"]["contributions"] == {"models": ["example.modules"], "panels": ["example.profile"]}
    assert rows["example"]["error"] is None
    assert "given twice" in rows["broken"]["error"]
    assert "scfm_broken" in rows["broken"]["package"]
    assert [name for name in rows if rows[name]["error"]] == ["broken"]


def test_plugins_validate_tells_the_good_from_the_broken(plugins_folder):
    good = scfm_lab_command("plugins", "validate", "example", PYTHONPATH=str(plugins_folder))
    assert (good.returncode, good.stdout.strip()) == (0, "example: ok")
    bad = scfm_lab_command("plugins", "validate", "broken", PYTHONPATH=str(plugins_folder))
    assert bad.returncode == 1
    assert "the broken plugin was imported" in bad.stdout
    assert "unknown key 'adaptor'; did you mean 'adapter'?" in bad.stdout
    assert "Traceback" not in bad.stdout + bad.stderr


def test_plugins_validate_finds_our_own_sound(run):
    code, out, err = run("plugins", "validate", "scfm", "scfm-registry", "scfm-widgets")
    assert (code, out.splitlines(), err) == (0, ["scfm: ok", "scfm-registry: ok", "scfm-widgets: ok"], "")


def test_plugins_validate_checks_a_manifest_before_it_is_installed(run, repository, tmp_path):
    manifests = [
        repository / "examples" / f"scfm-{name}-plugin/src/scfm_{name}/scfm.toml" for name in ("example", "broken")
    ]
    assert run("plugins", "validate", manifests[0])[0] == 0
    assert run("plugins", "validate", manifests[1])[0] == 1
    code, out, _ = run("plugins", "validate", tmp_path / "none.toml", "--json")
    assert code == 1
    assert "cannot be read: No such file" in json.loads(out)["problems"][str(tmp_path / "none.toml")][0]
    code, _, err = run("plugins", "validate", "exmple")
    assert code == 1
    assert "No plugin is called 'exmple'. Did you mean 'example'?" in err


def test_doctor_says_what_works_and_what_does_not(run):
    code, out, err = run("doctor", "--json")
    told = json.loads(out)
    findings = {item["about"]: item for item in told["findings"]}
    assert {about: item["text"] for about, item in findings.items() if item["state"] == "fail"} == {}
    assert {
        "scfm-lab",
        "packages",
        "hardware",
        "device",
        "data directory",
        "model scfm.pca",
        "registry",
        "browser",
    } <= set(findings)
    assert all(item["state"] in ("ok", "note", "fail") and item["text"] for item in findings.values())
    assert (code, told["ok"], err) == (0, True, "")
    assert findings["plugin example"]["state"] == "ok"
    # Somebody else's broken plugin is told, and is no failure of this installation.
    assert findings["plugin broken"]["state"] == "note"


def test_doctor_reports_what_is_damaged_and_goes_on(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "file"))
    code, out, _ = run("doctor")
    assert code == 1
    assert "FAIL  data directory" in out
    assert f"{tmp_path / 'file'} is a file. Set SCFM_HOME to a directory you can write to." in out
    assert "ok    model scfm.pca" in out


def test_lab_opens_a_copy_and_keeps_what_was_worked_on(run, repository, tmp_path, monkeypatch):
    monkeypatch.setenv("SCFM_HOME", str(tmp_path / "home"))
    original = repository / "tutorials" / "01_first_knockout.ipynb"
    code, out, _ = run("lab", "--print-path")
    # JupyterLab saves into what it opens: never the checkout's own.
    assert (code, out.strip()) == (0, str(tmp_path / "home" / "notebooks" / original.name))
    mine = tmp_path / "mine"
    notebook = mine / original.name
    code, out, _ = run("lab", "--folder", mine, "--print-path")
    assert (code, out.strip()) == (0, str(notebook))
    assert notebook.read_bytes() == original.read_bytes()
    notebook.write_text("worked on")
    (mine / "README.md").unlink()
    assert run("lab", "--folder", mine, "--print-path")[0] == 0
    assert notebook.read_text() == "worked on"
    assert (mine / "README.md").is_file()
    # A copy of an older release in which nobody has worked gives way to the newer one.
    record = json.loads((mine / ".copied.json").read_text())
    record[original.name] = hashlib.sha256(b"worked on").hexdigest()
    (mine / ".copied.json").write_text(json.dumps(record))
    assert run("lab", "--folder", mine, "--print-path")[0] == 0
    assert notebook.read_bytes() == original.read_bytes()
    (mine / ".copied.json").write_text("damaged")
    notebook.write_text("worked on")
    assert run("lab", "--folder", mine, "--print-path")[0] == 0
    assert notebook.read_text() == "worked on"


def test_the_address_that_jupyter_prints_opens_the_tutorial(tmp_path):
    """Also as root, and with no browser here: whoever copies the printed address lands in the notebook."""
    pytest.importorskip("jupyterlab")
    environment = {
        **os.environ,
        "SCFM_HOME": str(tmp_path / "home"),
        **{f"JUPYTER_{what}_DIR": str(tmp_path / what) for what in ("CONFIG", "DATA", "RUNTIME")},
    }
    command = [sys.executable, "-m", "scfm_lab", "lab", "--", "--no-browser", "--port=0", "--ServerApp.ip=127.0.0.1"]
    # A session of its own: JupyterLab is the program's child, and ends with it.
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        said = []
        try:
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+/\S*", line):
                    break
            else:
                pytest.fail("JupyterLab ended: " + "".join(said))
            parts = urlsplit(found[0])
            assert parts.path == "/lab/tree/01_first_knockout.ipynb"
            # It is printed before anybody listens.
            page = None
            for _ in range(240):
                with suppress(urllib.error.URLError):
                    page = urllib.request.urlopen(found[0], timeout=60).read().decode()
                    break
                time.sleep(0.25)
            assert page is not None
            assert json.loads(re.search(r'"news": (\{.*?\})', page)[1]) == {"disabled": True}
            contents = f"http://{parts.netloc}/api/contents/01_first_knockout.ipynb?content=0&{parts.query}"
            with urllib.request.urlopen(contents, timeout=60) as answer:
                assert json.load(answer)["type"] == "notebook"
            # Nobody is asked whether news may be told, and nothing is written where users keep what they have chosen.
            name = "@jupyterlab/apputils-extension:notification"
            with urllib.request.urlopen(
                f"http://{parts.netloc}/lab/api/settings/{name}?{parts.query}", timeout=60
            ) as answer:
                setting = json.load(answer)
            assert setting["schema"]["properties"]["fetchNews"]["default"] == "false"
            assert setting["settings"] == {}
            assert not list((tmp_path / "CONFIG").rglob("*setting*"))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.stderr.close()
            process.wait(60)
    assert f"Opening your copy, {tmp_path / 'home' / 'notebooks' / '01_first_knockout.ipynb'}" in said[0]


def test_settings_are_json_or_text():
    from scfm_lab.cli.options import parse_settings

    given = ("nhead=20", "orthologs=true", "assay = 10x 3' v3", "species=human")
    assert parse_settings(None, None, given) == {
        "nhead": 20,
        "orthologs": True,
        "assay": "10x 3' v3",
        "species": "human",
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--option", "max_length"], "is not KEY=VALUE"),
        (["--option", "a=1", "--option", "a=2"], "'a' is given twice"),
        (["--option", "max_lenght=5"], "has no option 'max_lenght'"),
        (["--config", "nothing=5"], "nothing"),
    ],
)
def test_settings_that_make_no_sense_are_said(run, cells, tmp_path, words, said):
    code, _, error = run("embed", cells, "--model", "pca", "-o", tmp_path / "out.h5ad", *words)
    assert code in (1, 2)
    assert said in error
    assert not (tmp_path / "out.h5ad").exists()
