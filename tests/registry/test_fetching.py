"""Checkpoints from addresses: what a hub or a catalogue names comes here, is what was named, and becomes a version."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from families import write_family
from webs import Page, Web

from scfm_lab.cli import main
from scfm_lab.errors import ModelError
from scfm_registry import Registry, catalog
from scfm_registry.sharing import downloading, fetching
from scfm_registry.sharing.addresses import Policy
from scfm_registry.sharing.hub import Repository, client, listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def _web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    web = Web(tmp_path_factory.mktemp("web"))
    yield web
    web.close()


@pytest.fixture
def web(_web: Web, home: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """A hub on this machine, named as the lab's own mirror."""
    del home
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(_web.authority))
    monkeypatch.setenv("HF_ENDPOINT", _web.url())
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("SCFM_MIRROR_HOSTS", "localhost")
    monkeypatch.setattr(downloading, "_PAUSES", (0,))
    _web.pages.clear()
    _web.asked.clear()
    return _web


@pytest.fixture(scope="module")
def geneformer(tmp_path_factory: pytest.TempPathFactory, _pbmc68k: AnnData) -> Path:
    """Geneformer's repository as it is on the hub: a checkpoint in a folder, its dictionaries in another, and more."""
    root = tmp_path_factory.mktemp("published")
    family = write_family("geneformer_v2", root, _pbmc68k)
    repository = root / "repository"
    (repository / "geneformer").mkdir(parents=True)
    family.path.rename(repository / "V2-small")
    for path in (repository / "V2-small" / "dictionaries").iterdir():
        path.rename(repository / "geneformer" / path.name)
    (repository / "V2-small" / "dictionaries").rmdir()
    (repository / "V2-small" / "training_args.bin").write_bytes(b"state of a training")
    (repository / "V2-small" / "figure.png").write_bytes(b"picture")
    (repository / "geneformer" / "tokenizer.py").write_text("print('code')\n")
    (repository / "V2-other").mkdir()
    (repository / "V2-other" / "config.json").write_text("{}")
    (repository / ".gitattributes").write_text("")
    return repository


def _serve(web: Web, repository: Path, *, named: str = "ctheodoris/Geneformer", largest_in_git: int = 5_000) -> None:
    """Answer as the hub does: commit, list of files in two pages, files behind a redirect; large ones with their SHA-256."""
    api = f"/api/models/{named}"
    web.pages[f"{api}/revision/main"] = Page(json.dumps({"sha": COMMIT}).encode())
    entries: list[dict[str, Any]] = []
    for path in sorted(p for p in repository.rglob("*") if p.is_file()):
        name, content = path.relative_to(repository).as_posix(), path.read_bytes()
        entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
        entry["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if len(content) > largest_in_git:
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content)}
        entries.append(entry)
        where = f"/{named}/resolve/{COMMIT}/{quote(name)}"
        web.pages[where] = Page(status=302, headers={"Location": f"/cdn/{quote(name)}?signature=x"})
        web.pages[f"/cdn/{quote(name)}"] = Page(content, {"ETag": f'"{entry["oid"]}"'})
    folders = {str(Path(entry["path"]).parent) for entry in entries}
    for folder in folders:
        below = [entry for entry in entries if folder == "." or entry["path"].startswith(f"{folder}/")]
        tree = f"{api}/tree/{COMMIT}" + ("" if folder == "." else f"/{quote(folder)}")
        following = {"Link": f'<{web.url(f"{tree}/page2")}>; rel="next"'}
        web.pages[f"{tree}?recursive=true"] = Page(json.dumps(below[:1]).encode(), following)
        web.pages[f"{tree}/page2"] = Page(json.dumps([{"type": "directory", "path": "x"}, *below[1:]]).encode())


def test_a_published_checkpoint_comes_by_its_name_in_the_catalogue(
    web: Web, geneformer: Path, made_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve(web, geneformer)
    about = {"sha": COMMIT, "cardData": {"license": "cc-by-nc-4.0"}}
    web.pages["/api/models/ctheodoris/Geneformer/revision/main"] = Page(json.dumps(about).encode())
    weights = (geneformer / "V2-small" / "model.safetensors").read_bytes()
    web.pages["/cdn/V2-small/model.safetensors"].breaks.append(len(weights) // 2)
    [entry] = [item for item in catalog._read() if item["id"] == "geneformer-v2-104m"]
    known = {
        **entry,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "size": len(weights),
        "get": [
            {"from": "hf://ctheodoris/Geneformer/V2-small"},
            {"from": "hf://ctheodoris/Geneformer/geneformer/*_gc104M.pkl"},
        ],
    }
    monkeypatch.setattr(catalog, "_read", lambda: (known,))
    registry = Registry()
    seen: list[tuple[int, int]] = []
    done = registry.import_checkpoint(
        "geneformer-v2-104m", certify=False, progress=lambda done, total: seen.append((done, total))
    )
    assert (done.reference, done.family) == ("geneformer-v2-104m/1", "scfm.geneformer")
    assert (done.licence, done.commercial) == ("CC-BY-NC-4.0", False), "the card of a repository lies above its folders"
    assert done.tags["scfm.source"] == f"hf://ctheodoris/Geneformer@{COMMIT}/V2-small"
    assert registry.catalog()[0].here == ("geneformer-v2-104m/1",), "its weights are those of the catalogue"
    assert len(list((registry.resolve("geneformer-v2-104m").path / "dictionaries").iterdir())) == 4
    assert seen
    # What is code, a picture or a state of training was not even asked for; the half file was gone on with.
    asked = [path for path, _ in web.asked]
    assert not [path for path in asked if path.endswith((".py", ".png")) or "training_args" in path]
    assert [headers.get("range") is None for headers in web.of("/cdn/V2-small/model.safetensors?signature=x")] == [
        True,
        False,
    ]
    # A token goes to the hub and not where the hub leads.
    assert {headers.get("authorization") for headers in web.of("/api/models/ctheodoris/Geneformer/revision/main")} == {
        "Bearer hf_secret"
    }
    assert not any((made_home / "cache" / "downloads").rglob("*.safetensors")), "what was used is gone"
    monkeypatch.setattr(catalog, "_read", lambda: ({**known, "sha256": "0" * 64},))
    web.asked.clear()
    with pytest.raises(ModelError, match="another file than the catalogue has on record"):
        registry.import_checkpoint("geneformer-v2-104m", "other")
    assert not [path for path, _ in web.asked if "resolve" in path]


def test_an_archive_comes_from_an_address(
    web: Web, made_home: Path, tmp_path: Path, pbmc68k: AnnData, capsys: pytest.CaptureFixture[str]
) -> None:
    family = write_family("scgpt", tmp_path / "published", pbmc68k)
    archive = tmp_path / "scgpt.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(family.path, "models/scgpt")
    content = archive.read_bytes()
    web.pages["/files/scgpt.tar.gz"] = Page(content)
    url = web.url("/files/scgpt.tar.gz")
    assert main(["models", "import", url, "--name", "mine", "--sha256", "0" * 64]) == 1
    assert "sent another file than it should" in capsys.readouterr().err
    assert main(["models", "import", url]) == 1
    assert "say name= (--name)" in capsys.readouterr().err
    code = main(
        [
            "models",
            "import",
            url,
            "--name",
            "mine",
            "--sha256",
            hashlib.sha256(content).hexdigest(),
            "--no-certify",
            "--json",
        ]
    )
    done = json.loads(capsys.readouterr().out)
    assert (code, done["family"]) == (0, "scfm.scgpt")
    assert Registry().get("mine").tags["scfm.source"] == url


def test_what_is_listed_of_a_repository(web: Web, geneformer: Path) -> None:
    _serve(web, geneformer)
    found = listing(client(Policy.of()), Repository.parse("hf://ctheodoris/Geneformer/V2-small"))
    wanted = found.files
    assert [item.name for item in wanted] == ["V2-small/config.json", "V2-small/model.safetensors"]
    assert found.left_out == ["V2-small/figure.png", "V2-small/training_args.bin"]
    assert wanted[0].blob
    assert not wanted[0].sha256
    assert wanted[1].sha256 == hashlib.sha256((geneformer / wanted[1].name).read_bytes()).hexdigest()
    assert all(COMMIT in item.url for item in wanted), "one state of the repository, whatever is pushed meanwhile"
    whole = listing(client(Policy.of()), Repository.parse("hf://ctheodoris/Geneformer"))
    assert {item.name.partition("/")[0] for item in whole.files} == {"geneformer"}, (
        "folders with checkpoints are their own"
    )


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("/revision/main", {"sha": "../../x"}, "does not say which commit"),
        ("/revision/main", [], "does not say which commit"),
        (f"/tree/{COMMIT}/V2-small?recursive=true", {"error": "x"}, "is no list of files"),
        (
            f"/tree/{COMMIT}/V2-small?recursive=true",
            [{"type": "file", "path": "../../.ssh/authorized_keys", "size": 1}],
            "is no list of files",
        ),
        (
            f"/tree/{COMMIT}/V2-small?recursive=true",
            [{"type": "file", "path": "/etc/x.json", "size": 1}],
            "no list of files",
        ),
        (f"/tree/{COMMIT}/V2-small?recursive=true", [], "holds no files that a checkpoint is made of"),
    ],
    ids=["climbing commit", "no commit", "no list", "climbing path", "absolute path", "empty"],
)
def test_a_hub_that_answers_strangely_is_not_believed(
    web: Web, geneformer: Path, path: str, content: Any, words: str
) -> None:
    _serve(web, geneformer)
    web.pages[f"/api/models/ctheodoris/Geneformer{path}"] = Page(json.dumps(content).encode())
    with pytest.raises(ModelError, match=words):
        listing(client(Policy.of()), Repository.parse("hf://ctheodoris/Geneformer/V2-small"))


def test_a_closed_repository_says_what_to_do(web: Web) -> None:
    web.pages["/api/models/a/b/revision/main"] = Page(status=401)
    with pytest.raises(ModelError, match="Accept its terms on its page, then set HF_TOKEN") as caught:
        listing(client(Policy.of()), Repository.parse("hf://a/b"))
    assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("hf://a/b", Repository("a", "b")),
        ("hf://a/b@v1.0/sub/folder/", Repository("a", "b", "v1.0", "sub/folder")),
        ("hf://a/b@refs%2Fpr%2F1", Repository("a", "b", "refs/pr/1")),
    ],
)
def test_addresses_on_the_hub(text: str, parsed: Repository) -> None:
    assert Repository.parse(text) == parsed


@pytest.mark.parametrize(
    "text", ["hf://", "hf://a", "hf://a/..", "hf://a/b/../c", "hf://a/b@../x", "hf://a/b\n", "hf://a b/c"]
)
def test_what_is_no_address_on_the_hub(text: str) -> None:
    with pytest.raises(ModelError, match="names no repository") as caught:
        Repository.parse(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("file:///etc", "is not fetched"),
        ("s3://bucket/../x", "is not fetched"),
        ("http:///#/../..", "names no host"),
        ("ftp://host/model.zip", "is not fetched"),
        ("https://example.org/", "does not tell by its name what it is"),
        ("https://example.org/train.py", "does not tell by its name what it is"),
        ("https://example.org/theirs.scfm", "is a bundle"),
        ("scgpt-human", "publish it on a page"),
        ("geneformer-v1", "no checkpoint at"),
    ],
)
def test_what_cannot_be_fetched_is_said_before_anything_is(web: Web, tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Registry.import_checkpoint(_Nowhere(tmp_path), source, "mine")  # type: ignore[arg-type]
    assert web.asked == []


class _Nowhere:
    """A registry in which nothing can be registered."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch


def test_the_catalogue_says_of_each_where_its_files_are(home: Path) -> None:
    for item in catalog.catalog():
        for part in item.get:
            if part["from"].startswith("hf://"):
                assert str(Repository.parse(part["from"])) == part["from"]
            else:
                Policy().check(part["from"])
                assert fetching._single(part).name
        assert item.get or item.family in ("scfm.scgpt", "scfm.scfoundation", "scfm.scbert")


def test_a_hash_that_is_given_is_compared_or_the_import_is_refused(web: Web, geneformer: Path, tmp_path: Path) -> None:
    other, small = "0" * 64, geneformer / "V2-small"
    archive = tmp_path / "small.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(small / "config.json", "config.json")
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    with fetching.local(archive, scratch=tmp_path, sha256=right) as found:
        assert (found.path / "config.json").is_file()
    for given, words in (
        (archive, rf"its SHA-256 is {right}, and not {other}"),
        (small, "is a folder, so that nothing"),
    ):
        with pytest.raises(ModelError, match=words), fetching.local(given, scratch=tmp_path, sha256=other):
            raise AssertionError("it was taken")
    # Weights that were not published in safetensors, and weights in several files.
    repository = tmp_path / "repository"
    (repository / "V2").mkdir(parents=True)
    (repository / "V2" / "config.json").write_text("{}")
    (repository / "V2" / "pytorch_model.bin").write_bytes(b"weights" * 1_000)
    for words in (
        "is another file than the one that you gave the hash of",
        "has 2 files of weights: .*; nothing was fetched",
    ):
        _serve(web, repository)
        given = fetching.local("hf://ctheodoris/Geneformer/V2", scratch=tmp_path, sha256=other)
        with pytest.raises(ModelError, match=words), given:
            raise AssertionError("it was taken")
        (repository / "V2" / "more.pt").write_bytes(b"more" * 2_000)
