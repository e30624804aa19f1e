"""The commands, through the program that users start."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from scfm_lab.cli import main, output
from scfm_lab.errors import StorageError
from scfm_registry import Registry, files, people

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData

pytestmark = pytest.mark.usefixtures("made_home")


@pytest.fixture
def scfm(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def data(scfm: Callable[..., tuple[int, str, str]]) -> Callable[..., Any]:
    def run(*words: str) -> Any:
        code, out, err = scfm(*words, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run


def test_list_shows_one_line_per_model(scfm: Callable[..., tuple[int, str, str]], data: Callable[..., Any]) -> None:
    code, out, err = scfm("models", "list")
    assert (code, err) == (0, "")
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        [name, "1", "champion"] for name in ("pca", "sctop", "starter")
    ]
    assert [item["name"] for item in data("models", "list", "--can", "impute")["models"]] == ["starter"]
    assert [item["name"] for item in data("models", "list", "--kind", "baseline", "--organism", "human")["models"]] == [
        "pca",
        "sctop",
    ]
    assert data("models", "list", "--fits", "pca")["models"][0]["fit"]["verdict"] == "fits"
    assert scfm("models", "list", "no-such-word")[1] == "No model matches.\n"


def test_show_prints_the_card(scfm: Callable[..., tuple[int, str, str]], data: Callable[..., Any]) -> None:
    code, out, _ = scfm("models", "show", "starter@champion")
    assert code == 0
    assert out.startswith("# starter/1 (champion)\n")
    told, known = data("models", "show", "starter"), Registry().get("starter")
    assert (told["digest"], told["tags"], told["training"]) == (known.digest, known.tags, None)


def test_import_promote_verify(
    scfm: Callable[..., tuple[int, str, str]], data: Callable[..., Any], basis: Callable[..., Path]
) -> None:
    folder = basis()
    code, out, _ = scfm(
        "models", "import", str(folder), "--name", "mine", "--kind", "baseline", "--consent", "no-sharing"
    )
    assert code == 0
    assert out.startswith("mine/1 is registered (scfm.pca, sha256:")
    assert out.endswith("It is certified: 'scfm-lab models verify' tells whether it still does the same.\n")
    assert data("models", "show", "mine")["consent"] == "no-sharing"
    assert data("models", "promote", "mine/1", "--expect", "none")["aliases"] == ["champion"]
    code, out, err = scfm("models", "promote", "mine/1", "--expect", "none")
    assert (code, out) == (1, "")
    assert err.startswith("Error: 'champion' of mine points at mine/1, where nobody was expected to have it")
    assert data("models", "verify", "mine")["ok"] is True
    path = Registry().resolve("mine").path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    code, out, err = scfm("models", "verify", "mine")
    assert (code, err) == (1, "")
    assert "model.safetensors is truncated" in out
    assert data("models", "list", "--name", "mine")["models"][0]["version"] == 1


@pytest.mark.thorough
def test_measure_prints_and_records(data: Callable[..., Any]) -> None:
    estimated = int(Registry().get("pca").hardware["mem.cpu.peak_mib"])
    evidence = data("models", "measure", "pca", "--device", "cpu", "--cells", "20", "--repeats", "1")
    assert evidence["cells"]["count"] == 20
    assert 1 <= estimated / evidence["memory"]["peak_mib"] <= 2, "Python and PyTorch count as well"
    assert Registry().evidence(evidence["run"])["output"] == evidence["output"]


def test_check_finds_nothing_wrong_with_a_good_registry(
    scfm: Callable[..., tuple[int, str, str]], data: Callable[..., Any]
) -> None:
    assert data("registry", "check")["ok"] is True
    code, out, _ = scfm("registry", "check", "--files")
    assert code == 0
    assert "starter/1: 4 files are as registered" in out


def test_check_says_what_is_wrong(scfm: Callable[..., tuple[int, str, str]], made_home: Path) -> None:
    (Registry().resolve("pca").path / "model.safetensors").write_bytes(b"")
    code, out, _ = scfm("registry", "check", "--files")
    assert code == 1
    assert "FAULT  pca/1: model.safetensors is truncated" in out
    (made_home / "registry" / "mlflow.db").write_bytes(b"no database" * 1000)
    code, out, _ = scfm("registry", "check")
    assert code == 1
    assert "FAULT  database:" in out
    assert "move the folder aside" in out


def test_setup_lists_the_built_in_models(data: Callable[..., Any], tmp_path: Path) -> None:
    assert [item["name"] for item in data("registry", "setup", str(tmp_path / "another"))["models"]] == [
        "pca",
        "sctop",
        "starter",
    ]


def test_a_measurement_takes_the_timeout_that_it_asks_for(scfm: Callable[..., tuple[int, str, str]]) -> None:
    # No process opens a model in a second.
    code, out, err = scfm("models", "measure", "pca", "--device", "cpu", "--timeout", "1")
    assert (code, out) == (1, "")
    assert "was not done after 1 seconds" in err
    assert "(--timeout 60)" in err


def test_a_gate_asks_for_what_is_named(scfm: Callable[..., tuple[int, str, str]], data: Callable[..., Any]) -> None:
    told = data("models", "gate", "pca", "--metric", "macro-F1", "--above", "floor")["gate"]
    assert (told["metrics"], told["above"]) == (["macro_f1"], ["floor"])
    assert "asks for macro_f1 above floor." in scfm("models", "gate", "pca")[1]
    data("models", "gate", "pca", "--approvals", "0")
    assert data("models", "gate", "pca")["gate"]["above"] == ["floor"], "what is not named stays"
    told = data("models", "gate", "pca", "--above", "floor", "--above", "parent")["gate"]
    assert told["above"] == ["floor", "parent"]
    code, out, err = scfm("models", "gate", "sctop", "--above", "floor")
    assert (code, out) == (2, "")
    assert "name one as well, such as --metric macro_f1" in err


def test_a_retraction_tells_which_files_were_made_with_it(
    scfm: Callable[..., tuple[int, str, str]], data: Callable[..., Any], pbmc68k: AnnData, tmp_path: Path
) -> None:
    import scfm_lab as sl

    few = pbmc68k[:20].copy()
    sl.embed(few, "models:/pca/1", progress=False)
    few.write_h5ad(tmp_path / "made.h5ad")
    assert "scfm-lab models affected FILES" in scfm("models", "retract", "sctop", "--because", "a test")[1]
    told = data("models", "retract", "pca", "--because", "a test", "--files", str(tmp_path))
    assert [item["name"] for item in told["retracted"]] == ["pca"]
    assert [row["file"] for row in told["results"]] == [str(tmp_path / "made.h5ad")]
    assert scfm("models", "retract", "pca", "--undo", "--files", str(tmp_path))[0] == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["models", "show", "startr"],
            "Error: No model is called 'startr' in the registry in {home}/registry; models there: pca, sctop, starter. Did you mean 'starter'?",
        ),
        (["models", "show", "starter/9"], "Error: 'starter' has no version 9; its versions: 1."),
        (["models", "show", "Starter"], "Error: 'Starter' cannot be a model's name"),
        (["models", "promote", "starter", "--alias", "latest"], "Error: The alias 'latest' is reserved"),
        (["models", "import", "nowhere", "--name", "mine"], "Error: There is no checkpoint at nowhere"),
        (["models", "list", "--registry", "ftp://x"], "Error: A registry cannot be kept at 'ftp:'"),
        *(
            (
                ["models", "list", "--registry", address],
                f"Error: '{address}' is no folder that is there; for the server of a lab write http://{address}.",
            )
            for address in ("registry.lab:5000", "localhost:5000/mlflow")
        ),
    ],
    ids=[
        *("unknown model", "unknown version", "bad name", "reserved alias", "no folder", "bad address"),
        *("server without a scheme", "server without a scheme, and a path"),
    ],
)
def test_a_failure_is_one_sentence(
    scfm: Callable[..., tuple[int, str, str]], words: list[str], sentence: str, made_home: Path
) -> None:
    code, out, err = scfm(*words)
    assert (code, out) == (1, "")
    assert err.startswith(sentence.format(home=made_home))
    assert err.count("\n") == 1


def test_what_is_deleted_comes_back_and_what_is_exported_comes_in_elsewhere(
    scfm: Callable[..., tuple[int, str, str]], data: Callable[..., Any], basis: Callable[..., Path], tmp_path: Path
) -> None:
    imported = data("models", "import", str(basis()), "--name", "mine", "--no-certify")
    told = data("models", "delete", "mine/1", "--because", "a trial")
    assert (told["name"], told["digest"]) == ("mine", imported["digest"])
    assert "mine" not in [item["name"] for item in data("models", "list")["models"]]
    assert [item["name"] for item in data("models", "list", "--trash")["models"]] == ["mine"]
    assert scfm("models", "verify", "mine")[0] == 1
    assert data("models", "restore", "mine/1")["digest"] == imported["digest"]
    assert data("models", "verify", "mine")["ok"] is True

    bundle, elsewhere = str(tmp_path / "mine.scfm"), str(tmp_path / "elsewhere")
    signer = data("models", "export", "mine", "-o", bundle)["signer"]["fingerprint"]
    asked = ["models", "import-bundle", bundle, "--name", "theirs", "--no-certify", "--registry", elsewhere]
    assert data(*asked, "--trust", signer)["digest"] == imported["digest"]
    assert data("models", "verify", "theirs", "--registry", elsewhere)["ok"] is True
    data("models", "delete", "mine/1")
    data("models", "delete", "mine/1", "--purge")
    assert data("models", "list", "--trash")["models"] == []


def test_the_life_of_a_version(
    scfm: Callable[..., tuple[int, str, str]],
    data: Callable[..., Any],
    basis: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(people, "of_system", lambda: "anna")
    spool = str(tmp_path / "spool")
    assert (
        data("models", "spool", str(basis()), "--name", "mine", "--to", spool, "--project", "atlas")["name"] == "mine"
    )
    assert data("models", "sync", spool)["registered"][0]["project"] == "atlas"
    assert data("models", "annotate", "mine/1", "--limits", "blood only")["owner"] == "anna"
    assert "## Limits\n\nblood only" in scfm("models", "show", "mine", "--card")[1]
    assert "## Limits" not in scfm("models", "show", "mine")[1]
    assert "atlas" in scfm("models", "list", "mine")[1]
    data("models", "gate", "mine", "--alias", "trusted", "--approvals", "1")
    data("models", "gate", "mine", "--alias", "trusted", "--metric", "macro_f1")
    kept = data("models", "gate", "mine", "--alias", "trusted")["gate"]
    assert (kept["metrics"], kept["approvals"]) == (["macro_f1"], 1), "what is not named stays"
    code, _, err = scfm("models", "gate", "mine", "--alias", "trusted", "--none")
    assert (code, "so does making it looser" in err) == (1, True)
    data("models", "gate", "mine", "--approvals", "1")
    assert data("models", "gate", "mine")["gate"]["approvals"] == 1
    code, _, err = scfm("models", "promote", "mine/1")
    assert (code, "missing: 1 more of other people's word" in err) == (1, True)
    monkeypatch.setattr(people, "of_system", lambda: "ben")
    assert data("models", "approve", "mine/1")["approved_by"] == ["ben"]
    assert data("models", "promote", "mine/1")["aliases"] == ["champion"]
    assert len(data("models", "certify", "mine")["hashes"]["vectors"]) == 64
    told = data("models", "verify", "mine")
    assert (told["panel"]["stages"]["vectors"], told["not_compared"]) == ("same", None)
    told = data("models", "verify", "sctop")
    assert (told["ok"], told["panel"], told["not_compared"]) == (True, None, files.MADE_NOW)
    assert data("models", "compare", "mine", "mine", "--cells", "10")["relation"] == "the same files"
    assert [item["name"] for item in data("models", "retract", "mine", "--because", "a test")["retracted"]] == ["mine"]
    assert "RETRACTED" in scfm("models", "list", "mine")[1]
    assert scfm("models", "affected", str(tmp_path / "none.h5ad"))[0] == 1
    assert data("models", "retract", "mine", "--undo")["retracted"] is None
    told = data("models", "log", "mine")
    wanted = [
        "register",
        "sync",
        "certify",
        "annotate",
        *["gate"] * 3,
        "approve",
        "promote",
        "certify",
        "retract",
        "reinstate",
    ]
    assert ([entry["action"] for entry in told["entries"]], told["ok"]) == (wanted, True)
    trail = Registry()._place.folder / "audit.jsonl"  # type: ignore[operator]
    trail.write_text(trail.read_text().replace("blood only", "all tissues"))
    code, out, _ = scfm("models", "log")
    assert (code, "was changed after it was written" in out) == (1, True)


@pytest.mark.parametrize("words", [["models", "measure"], ["models", "list", "--kind", "x"], ["models", "nope"]])
def test_a_usage_error_exits_2(scfm: Callable[..., tuple[int, str, str]], words: list[str]) -> None:
    assert scfm(*words)[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["models"],
        *(["models", name] for name in ("list", "show", "promote", "verify", "measure", "import")),
        *(["models", name] for name in ("export", "import-bundle", "keys", "mirror", "adopt")),
        *(
            ["models", name]
            for name in ("annotate", "log", "gate", "approve", "retract", "affected", "certify", "compare")
        ),
        *(
            ["models", name]
            for name in ("spool", "sync", "catalog", "lineage", "reproduce", "made-with", "delete", "restore")
        ),
        ["registry"],
        *(["registry", name] for name in ("check", "setup", "serve", "add-person")),
    ],
    ids=" ".join,
)
def test_help_has_an_example_that_is_spelled_right(scfm: Callable[..., tuple[int, str, str]], words: list[str]) -> None:
    code, out, _ = scfm(*words, "--help")
    assert code == 0
    examples = [line.strip() for line in out.partition("Examples:")[2].splitlines() if line.strip()]
    assert examples
    assert all(line.startswith(" ".join(["scfm-lab", *words])) for line in examples)


class _Terminal(io.StringIO):
    """Where somebody types an answer."""

    def isatty(self) -> bool:
        return True


class _WhileSomebodyPromotes(_Terminal):
    """Where somebody takes their time to answer."""

    def readline(self, *given: Any) -> str:  # type: ignore[override]
        Registry().promote("mine/1")
        return super().readline(*given)


def test_promote_says_who_loses_the_alias_and_asks_at_a_terminal(
    scfm: Callable[..., tuple[int, str, str]],
    data: Callable[..., Any],
    put_in: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for width in (8, 5, 3):
        put_in(Registry(), "mine", width=width)
    monkeypatch.setattr("sys.stdin", _Terminal())
    assert scfm("models", "promote", "mine/1")[:2] == (0, "champion of mine is now mine/1.\n"), "nobody loses it"
    monkeypatch.setattr("sys.stdin", _Terminal("n\ny\n"))
    code, _, err = scfm("models", "promote", "mine/2")
    assert (code, "'champion' of mine is mine/1. Is it to be mine/2 instead?" in err) == (1, True)
    assert Registry().holder("mine") == "mine/1"
    assert scfm("models", "promote", "mine/2")[1] == "champion of mine is now mine/2, instead of mine/1.\n"
    monkeypatch.setattr("sys.stdin", _WhileSomebodyPromotes("y\n"))
    code, _, err = scfm("models", "promote", "mine/3")
    assert (code, "points at mine/1, where mine/2 was expected to have it; nothing was changed" in err) == (1, True)
    assert data("models", "promote", "mine/3")["instead_of"] == "mine/1"
    assert scfm("models", "promote", "mine/2", "--yes")[0] == 0


def test_a_place_that_somebody_named_is_what_a_message_speaks_of(
    scfm: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = scfm("models", "export", "pca", "--out", str(tmp_path / "missing" / "pca.scfm"))
    assert (code, err.count("\n")) == (1, 1)
    assert f"The bundle cannot be written to {tmp_path / 'missing'}" in err
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"The mirror cannot be written to .*: part of that path is a file") as told:
        Registry().mirror(tmp_path / "file" / "mirror", ["pca"])
    assert "SCFM_HOME" not in err + str(told.value)


def test_names_of_files_reach_a_terminal_as_text(scfm: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a\x1b]0;title\x07\x9b2J.exe").touch()
    code, _, err = scfm("models", "import", str(tmp_path), "--name", "mine")
    assert (code, "·]0;title··2J.exe is not taken" in err) == (1, True)
    assert not set(err) & set("\x1b\x07\x9b")
    assert output.harmless("a\r\nb\tc\rd\x1b[2J é") == "a\nb\tc·d·[2J é"


def test_list_heeds_every_condition_or_refuses_it(
    scfm: Callable[..., tuple[int, str, str]], data: Callable[..., Any]
) -> None:
    assert scfm("models", "list", "--name", "pca", "--can", "impute")[1] == "No model matches.\n"
    assert [item["name"] for item in data("models", "list", "--name", "pca", "--can", "embed")["models"]] == ["pca"]
    assert "No model is called 'pcaa'" in scfm("models", "list", "--name", "pcaa")[2]
    code, _, err = scfm("models", "list", "--trash", "--can", "embed")
    assert (code, "it takes no other condition" in err) == (2, True)
    assert data("models", "list", "--trash", "--name", "pca")["models"] == []
