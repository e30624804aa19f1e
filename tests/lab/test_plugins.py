"""Plugins are found by their manifests, run no code until they are used, and harm nothing when they are broken."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import scfm_lab as sl
from scfm_lab import plugins
from scfm_lab.errors import DataError, GenesError, ModelError, PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD = 'schema_version = 1\nrequires_api = ">=1,<2"\nname = "my-fm"\n'
MODEL = '[[models]]\nid = "my-fm.base"\nadapter = "my_fm.model:Base"\n'


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Put a distribution with a manifest on the path, with real metadata, and forget it after the test."""
    loaded = set(sys.modules)

    def put(
        manifest: str | bytes | None,
        *,
        package: str = "my_fm",
        distribution: str = "my-fm",
        entry: str | None = None,
        init: str = "",
    ) -> Path:
        folder = tmp_path / package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text(init)
        if manifest is not None:
            content = manifest if isinstance(manifest, bytes) else manifest.encode()
            (folder / "scfm.toml").write_bytes(content)
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.3.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.3\n")
        points = entry or f"{distribution} = {package}:scfm.toml"
        (info / "entry_points.txt").write_text(f"[scfm_lab.manifest]\n{points}\n")
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        yield put
    for name in set(sys.modules) - loaded:
        if name.partition(".")[0] in ("my_fm", "other_fm"):
            del sys.modules[name]
    plugins.discover(refresh=True)


def row_of(name: str, catalogue: plugins.Catalogue | None = None) -> plugins.Plugin:
    rows = [row for row in (catalogue or plugins.discover(refresh=True)).plugins if row.name == name]
    assert len(rows) == 1
    return rows[0]


def run(code: str, **environment: str) -> str:
    """Run Python in a fresh process and give what it printed."""
    import os

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


# --- what is found ---------------------------------------------------------------------


def test_our_own_manifests_are_sound():
    own = [row for row in plugins.discover(refresh=True).plugins if row.own]
    assert [row.name for row in own] == ["scfm", "scfm-registry", "scfm-widgets"]
    assert {row.name: (row.faults, row.warnings) for row in own} == {row.name: ((), ()) for row in own}
    assert {item.id for item in plugins.discover().contributions("models")} >= {
        "scfm.pca",
        "scfm.sctop",
        "scfm.starter",
    }


def test_a_checkout_on_the_path_needs_no_installation(repository: Path, tmp_path: Path):
    import click
    import packaging

    for module in (click, packaging):
        source = Path(module.__file__).parent
        (tmp_path / source.name).symlink_to(source, target_is_directory=True)
    folders = [tmp_path, repository, repository / "registry", repository / "widgets"]
    code = f"""
        import sys
        sys.path[:0] = {[str(folder) for folder in folders]!r}
        from importlib import metadata
        from scfm_lab import plugins
        assert not [d for d in metadata.distributions() if d.name == "scfm-lab"]
        print([(row.name, row.distribution, row.error) for row in plugins.discover().plugins])
    """
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    names = ["scfm", "scfm-registry", "scfm-widgets"]
    assert done.stdout.strip() == str([(name, None, None) for name in names])


def test_a_plugin_is_a_row_with_its_version_and_contributions(install):
    install(
        HEAD + MODEL + '[[panels]]\nid = "my-fm.attention"\nfactory = "my_fm.panel:Attention"\nreads = ["selection"]\n'
    )
    row = row_of("my-fm")
    assert (row.version, row.package, row.distribution, row.error) == ("1.2.3", "my_fm", "my-fm", None)
    assert row.counts == {"models": 1, "panels": 1}
    panel = plugins.discover().get("panels", "my-fm.attention")
    assert (panel.name, panel.target, panel.data["reads"]) == ("attention", "my_fm.panel:Attention", ["selection"])


def test_our_own_come_before_everybody_elses(install):
    install(
        HEAD.replace("my-fm", "aaa") + '[[models]]\nid = "aaa.model"\nadapter = "my_fm:Model"\n', distribution="aaa"
    )
    ids = [item.id for item in plugins.discover(refresh=True).contributions("models")]
    assert ids.index("aaa.model") > ids.index("scfm.starter")


def test_listing_runs_no_plugin(install):
    folder = install(HEAD + MODEL, init="raise RuntimeError('imported')")
    assert row_of("my-fm").error is None
    assert "my_fm" not in sys.modules
    assert not (folder / "__pycache__").exists()


def test_listing_loads_nothing_heavy(plugins_folder):
    heavy = ["torch", "scanpy", "anndata", "mlflow", "pandas", "sklearn", "scipy", "altair", "anywidget"]
    printed = run(
        f"""
        import sys
        from scfm_lab import plugins
        plugins.discover()
        print([name for name in {heavy!r} if name in sys.modules])
        """,
        PYTHONPATH=str(plugins_folder),
    )
    assert printed.strip() == "[]"


def test_the_answer_stays_until_it_is_refreshed(install):
    before = plugins.discover(refresh=True)
    install(HEAD + MODEL)
    assert plugins.discover() is before
    assert row_of("my-fm", plugins.discover(refresh=True)).counts == {"models": 1}


# --- what is wrong ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        pytest.param("schema_version = ", "not valid TOML", id="no TOML"),
        pytest.param(b"name = '\xff'", "not UTF-8", id="no text"),
        pytest.param(HEAD.replace("version = 1", "version = 7"), "'schema_version' must be 1", id="another layout"),
        pytest.param(
            HEAD.replace('">=1,<2"', '">=2"'), "requires plugin API >=2, and this scfm-lab offers", id="newer API"
        ),
        pytest.param(HEAD.replace('">=1,<2"', '"one"'), "is not a version range", id="no range"),
        pytest.param('schema_version = 1\nname = "my-fm"\n', "'requires_api' must be a version range", id="no API"),
        pytest.param(HEAD.replace('"my-fm"', '"My FM"'), "'name' must be a plugin name", id="name with spaces"),
    ],
)
def test_a_manifest_with_a_wrong_head_contributes_nothing(install, manifest, said):
    install(manifest if isinstance(manifest, bytes) else manifest + MODEL)
    row = row_of("my-fm")
    assert said in row.error
    assert row.counts == {}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        pytest.param('[[models]]\nadapter = "my_fm:A"\n', "'id' is missing", id="no id"),
        pytest.param('[[models]]\nid = "my-fm.x"\n', "'adapter' is missing", id="no adapter"),
        pytest.param('[[models]]\nid = "x"\nadapter = "my_fm:A"\n', 'must be "my-fm.<name>"', id="id without plugin"),
        pytest.param('[[models]]\nid = "scfm.x"\nadapter = "my_fm:A"\n', "it is 'scfm.x'", id="somebody else's id"),
        pytest.param('[[models]]\nid = "my-fm.x"\nadapter = "my_fm.A"\n', "object reference", id="no colon"),
        pytest.param('[[models]]\nid = "my-fm.x"\nadapter = "../a.py:A"\n', "object reference", id="a file"),
        pytest.param('[[models]]\nid = "my-fm.base"\nadapter = "my_fm:A"\n', "given twice", id="duplicate id"),
        pytest.param(
            '[[models]]\nid = "my-fm.x"\nadapter = "my_fm:A"\nneeds = { ram_gb = -1 }\n',
            "'needs.ram_gb'",
            id="negative need",
        ),
        pytest.param(
            '[[models]]\nid = "my-fm.x"\nadapter = "my_fm:A"\nweights = "../../etc/passwd"\n',
            "a path inside the package",
            id="weights outside",
        ),
        pytest.param(
            '[[models]]\nid = "my-fm.x"\nadapter = "my_fm:A"\ntasks = "embed"\n', "a list of texts", id="no list"
        ),
        pytest.param(
            '[[sources]]\nid = "my-fm.x"\nloader = "my_fm:a"\nprefix = "x y"\n', "'prefix' must look", id="prefix"
        ),
        pytest.param(
            '[[sources]]\nid = "my-fm.x"\nloader = "my_fm:a"\nprefix = "models:"\n',
            "which is taken by 'scfm-registry.",
            id="taken prefix",
        ),
        pytest.param(
            '[[commands]]\nid = "my-fm.x"\nname = "embed"\nhelp = "h"\nloader = "my_fm:a"\n',
            "which is taken by 'scfm.embed'",
            id="taken command",
        ),
    ],
)
def test_a_wrong_entry_is_named_and_leaves_the_others(install, entry, said):
    install(HEAD + MODEL + entry)
    row = row_of("my-fm")
    assert said in row.error
    assert row.counts == {"models": 1}
    assert plugins.discover().get("models", "my-fm.base").target == "my_fm.model:Base"


def test_unknown_keys_are_named_with_the_nearest_and_do_no_harm(install):
    install(HEAD + "colour = 'red'\n" + MODEL + 'organism = "human"\n[[modles]]\nid = "my-fm.x"\n')
    row = row_of("my-fm")
    assert row.error is None
    assert row.counts == {"models": 1}
    said = " ".join(row.warnings)
    assert "'colour'" in said
    assert "'organism'; did you mean 'organisms'?" in said
    assert "'modles'; did you mean 'models'?" in said


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        pytest.param("my-fm = my_fm", 'must be "package:file.toml"', id="no file"),
        pytest.param("my-fm = my_fm.sub:scfm.toml", "top-level package", id="dotted package"),
        pytest.param("my-fm = no_such_package:scfm.toml", "'no_such_package' is not installed", id="no package"),
        pytest.param("my-fm = my_fm:other.toml", "other.toml is not in the package 'my_fm'", id="no manifest"),
        pytest.param("my-fm = my_fm:../my_fm/scfm.toml", "inside the package", id="outside the package"),
        pytest.param("my-fm = json.decoder:scfm.toml", "top-level package", id="module of the standard library"),
    ],
)
def test_an_entry_point_that_leads_nowhere_is_a_row(install, entry, said):
    install(HEAD + MODEL, entry=entry, init="raise RuntimeError('imported')")
    row = row_of("my-fm")
    assert said in row.error
    assert row.counts == {}


def test_a_taken_plugin_name_is_a_row_of_its_own(install):
    install(HEAD + MODEL)
    install(HEAD + MODEL.replace("my_fm", "other_fm"), package="other_fm", distribution="zzz")
    first, second = (row for row in plugins.discover(refresh=True).plugins if row.name == "my-fm")
    assert (first.package, first.error) == ("my_fm", None)
    assert "taken by the package 'my_fm'" in second.error
    assert plugins.discover().get("models", "my-fm.base").target == "my_fm.model:Base"


def test_nobody_takes_our_names(install):
    install(HEAD.replace("my-fm", "scfm") + '[[models]]\nid = "scfm.starter"\nadapter = "my_fm:Impostor"\n')
    impostor = next(row for row in plugins.discover(refresh=True).plugins if row.package == "my_fm")
    assert "taken by the package 'scfm_lab'" in impostor.error
    assert plugins.discover().get("models", "scfm.starter").target.startswith("scfm_lab.")


@pytest.mark.parametrize(
    "text", ["nonsense", "[scfm_lab.manifest]\nno equals sign", "[scfm_lab.manifest\nx = y:z.toml"]
)
def test_damaged_metadata_of_another_distribution_harms_nothing(install, tmp_path, text):
    info = tmp_path / "damaged-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(text)
    install(HEAD + MODEL)
    assert row_of("my-fm").error is None


# --- loading ---------------------------------------------------------------------------


def test_loading_gives_the_object(install):
    folder = install(HEAD + MODEL)
    (folder / "model.py").write_text("class Base: ...\n")
    assert plugins.discover(refresh=True).get("models", "my-fm.base").load().__name__ == "Base"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        pytest.param("raise RuntimeError('no licence found')", "RuntimeError: no licence found", id="raises"),
        pytest.param("import sys; sys.exit(3)", "SystemExit: 3", id="exits"),
        pytest.param("import no_such_dependency", "No module named 'no_such_dependency'", id="missing dependency"),
        pytest.param("Other = 1", "no attribute 'Base'", id="missing object"),
        pytest.param("def broken(:", "SyntaxError", id="syntax"),
    ],
)
def test_a_plugin_that_cannot_be_imported_says_why_and_shows_it_in_its_row(install, code, said):
    folder = install(HEAD + MODEL)
    (folder / "model.py").write_text(code)
    catalogue = plugins.discover(refresh=True)
    with pytest.raises(PluginError, match="Plugin 'my-fm'") as caught:
        catalogue.get("models", "my-fm.base").load()
    assert said in str(caught.value)
    assert said in row_of("my-fm", catalogue).error
    assert all(row.error is None for row in catalogue.plugins if row.own)


def test_an_unknown_contribution_names_the_nearest_and_the_plugins_error(install):
    with pytest.raises(PluginError, match=r"Did you mean 'scfm\.starter'"):
        plugins.discover(refresh=True).get("models", "scfm.startr")
    install(HEAD + '[[models]]\nid = "my-fm.base"\n')
    with pytest.raises(PluginError, match=r"Plugin 'my-fm' has an error: .*'adapter' is missing"):
        plugins.discover(refresh=True).get("models", "my-fm.base")
    with pytest.raises(PluginError, match="no kind of contribution called 'colours'"):
        plugins.discover().contributions("colours")


def test_a_plugins_dataset_loads_by_its_id(install, pbmc68k, tmp_path):
    folder = install(HEAD + '[[datasets]]\nid = "my-fm.cells"\ntitle = "Ten cells"\nloader = "my_fm.data:cells"\n')
    pbmc68k[:10].write_h5ad(folder / "cells.h5ad")
    (folder / "data.py").write_text(
        "def cells():\n    import anndata, pathlib\n"
        "    return anndata.read_h5ad(pathlib.Path(__file__).with_name('cells.h5ad'))\n"
    )
    plugins.discover(refresh=True)
    assert list(sl.datasets.load("my-fm.cells").obs_names) == list(pbmc68k.obs_names[:10])
    listed = sl.datasets.list().set_index("name")
    assert listed.loc["my-fm.cells", "what"] == "Ten cells"
    with pytest.raises(DataError, match=r"Did you mean 'my-fm\.cells'"):
        sl.datasets.load("my-fm.cell")


def test_a_family_that_cannot_look_at_a_path_keeps_nobody_from_opening_it(install, example_plugins, tmp_path):
    folder = install(HEAD.replace("my-fm", "aaa") + MODEL.replace("my-fm", "aaa"), distribution="aaa")
    (folder / "model.py").write_text(
        "from scfm_lab.models.contract import Model\n\n\nclass Base(Model):\n    family = 'x'\n"
    )
    plugins.discover(refresh=True)
    (tmp_path / "mine.csv").write_text("module,gene\nt,CD3D\n")
    assert sl.load_model(tmp_path / "mine.csv").spec.family == "gene-modules"
    (tmp_path / "other.bin").write_bytes(b"?")
    with pytest.raises(ModelError, match=r"of no family known here .* aaa\.base cannot look at it"):
        sl.load_model(tmp_path / "other.bin")


# --- the example plugins ---------------------------------------------------------------


def test_the_example_model_embeds_real_cells_as_its_definition_says(example_plugins, pbmc68k):
    model = sl.load_model("example.modules")
    assert model.version == "example.modules/1.0.0"
    vectors = sl.embed(pbmc68k, model, progress=False).vectors
    scores = dict(zip(model.modules, vectors.T, strict=True))

    # The definition, computed another way: dense, gene by gene, from the whole library size.
    genes = [
        g
        for g in (
            "CD79A",
            "CD79B",
            "MS4A1",
            "CD19",
            "CD37",
            "BANK1",
            "TCL1A",
            "VPREB3",
            "FCER2",
            "IGHM",
            "IGHD",
            "CD22",
        )
        if g in pbmc68k.var_names
    ]
    counts = np.asarray(pbmc68k[:, genes].X.todense(), dtype=float)
    total = pbmc68k.obs["total_counts_all_genes"].to_numpy()[:, None]
    wanted = np.log1p(counts / total * 1e4).mean(axis=1)
    seen = np.isfinite(scores["b cell"])
    np.testing.assert_allclose(scores["b cell"][seen], wanted[seen], atol=1e-5)

    # And it means what it says: B cells score highest on the B-cell module, monocytes on theirs.
    types = pbmc68k.obs["cell_type"].astype(str)
    for module, of in (("b cell", "B"), ("monocyte", "Monocyte")):
        means = {name: np.nanmean(scores[module][types == name]) for name in types.unique()}
        assert of in max(means, key=means.get)


def test_the_example_model_passes_the_kit(example_plugins):
    from scfm_lab.testing import check_model

    report = check_model("example.modules", process=False)
    assert len(report.checks) == 17
    assert [check.name for check in report.checks if check.state == "skipped"] == []


def test_the_example_panel_passes_the_kit_and_tells_what_is_selected(example_plugins, pbmc68k):
    from scfm_lab.testing import check_panel
    from scfm_widgets import Lab

    report = check_panel("example.profile", adata=pbmc68k)
    assert report.passed
    assert len(report.checks) == 7

    lab = Lab(pbmc68k)
    lab.selection = (pbmc68k.obs["cell_type"].astype(str) == "CD19+ B").to_numpy()
    panel = plugins.discover().get("panels", "example.profile").load()(lab.session)
    asked = panel.handle({"of": "selection"})
    # A model is opened for it and reads all cells: the notebook does not wait for that.
    assert isinstance(asked, Future)
    told = asked.result(60)
    assert panel.handle({"of": "selection"}) == told, "and at once when the scores are there"
    scores = dict(zip(told["modules"], told["selected"], strict=True))
    assert told["n"] == 95
    assert scores["b cell"] > 2 * dict(zip(told["modules"], told["all"], strict=True))["b cell"]
    assert lab.wait(60)
    lab.close()


def test_the_example_panel_scores_anew_once_the_counts_are_others_and_only_then(example_plugins, pbmc68k):
    from scfm_widgets import Lab

    cells = pbmc68k.copy()
    lab = Lab(cells)
    panel = plugins.discover().get("panels", "example.profile").load()(lab.session)
    told = panel.handle({"of": "selection"}).result(60)
    cells.obs["phase"] = "G1"
    lab.look_again()
    assert panel.handle({"of": "selection"}) == told
    before = panel.scores()
    cells.X = cells.X[::-1]
    cells.obs["total_counts_all_genes"] = cells.obs["total_counts_all_genes"].to_numpy()[::-1]
    lab.look_again()
    answer = panel.handle({"of": "selection"})
    assert isinstance(answer, Future)
    answer.result(60)
    np.testing.assert_allclose(panel.scores(), before[::-1], rtol=1e-5)
    lab.close()


def test_the_users_own_table_of_modules_opens_with_the_plugins_adapter(example_plugins, tmp_path, pbmc68k):
    (tmp_path / "mine.csv").write_text("module,gene\nt,CD3D\nt,CD3E\nmono,LYZ\n")
    model = sl.load_model(tmp_path / "mine.csv")
    assert (model.spec.family, model.modules) == ("gene-modules", ["t", "mono"])
    (tmp_path / "empty.csv").write_text("module,gene\n")
    with pytest.raises(ModelError, match="holds no module"):
        sl.load_model(tmp_path / "empty.csv")
    pbmc68k.var_names = [f"x{i}" for i in range(pbmc68k.n_vars)]
    pbmc68k.var = pbmc68k.var[[]]
    with pytest.raises(GenesError, match="known to modules"):
        sl.embed(pbmc68k, model, progress=False)


def test_the_broken_plugin_is_one_row_and_harms_nothing(example_plugins, pbmc68k):
    row = row_of("broken")
    for said in (
        "given twice",
        "'scfm.starter'",
        "'adapter' is missing",
        "a path inside the package",
        "taken by 'scfm.embed'",
    ):
        assert said in row.error
    assert "scfm_broken" not in sys.modules
    assert sl.embed(pbmc68k, "example.modules", progress=False).key == "X_modules"
    with pytest.raises(PluginError, match="the broken plugin was imported"):
        sl.load_model("broken.unloadable")
    assert "the broken plugin was imported" in row_of("broken", plugins.discover()).error


def test_an_installed_plugin_is_found_from_another_process(plugins_folder, tmp_path):
    printed = run(
        """
        import json
        from scfm_lab import plugins
        print(json.dumps({row.name: row.error is None for row in plugins.discover().plugins}))
        """,
        PYTHONPATH=str(plugins_folder),
    )
    found = json.loads(printed)
    assert found["example"] is True
    assert found["broken"] is False
