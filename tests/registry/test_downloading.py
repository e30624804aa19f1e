"""Files from the network: whole, the ones that were meant, from where they may come, or not at all."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

import pytest
from webs import Page, Web

from scfm_lab.errors import ModelError, StorageError
from scfm_registry.sharing import downloading
from scfm_registry.sharing.addresses import Policy, is_public
from scfm_registry.sharing.downloading import Client, Wanted, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONTENT = random.Random(0).randbytes(3 * 2**20 + 17)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def _web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    web = Web(tmp_path_factory.mktemp("web"))
    yield web
    web.close()


@pytest.fixture
def web(_web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The server, whose authority is accepted, with nothing on it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(_web.authority))
    monkeypatch.delenv("SCFM_MIRROR_HOSTS", raising=False)
    # Tries follow each other at once.
    monkeypatch.setattr(downloading, "_PAUSES", (0, 0))
    _web.pages.clear()
    _web.asked.clear()
    return _web


@pytest.fixture
def client() -> Client:
    """What may speak to the server, since it was named."""
    return Client(Policy.of(["localhost"]))


def _left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_comes_whole_with_its_hash_checked_and_its_progress_told(
    web: Web, client: Client, tmp_path: Path
) -> None:
    web.pages["/model.pt"] = Page(CONTENT, {"ETag": '"1"'})
    seen: list[tuple[int, int]] = []
    wanted = Wanted(web.url("/model.pt"), "weights/model.pt", size=len(CONTENT), sha256=SHA256)
    path = fetch(client, wanted, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "weights" / "model.pt"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert _left(tmp_path) == ["model.pt", "weights"]
    assert fetch(client, wanted, tmp_path) == path
    assert len(web.asked) == 1, "what is there is not fetched again"


def test_what_broke_off_goes_on_where_it_was(web: Web, client: Client, tmp_path: Path) -> None:
    web.pages["/model.pt"] = Page(CONTENT, {"ETag": '"1"'}, breaks=[2**20, 2**20 + 5])
    path = fetch(client, Wanted(web.url("/model.pt"), "model.pt"), tmp_path)
    assert path.read_bytes() == CONTENT
    starts = [headers.get("range") for headers in web.of("/model.pt")]
    assert starts[0] is None
    assert len(starts) == 3
    assert all(int(str(start)[6:-1]) > 0 for start in starts[1:])
    assert {headers.get("if-range") for headers in web.of("/model.pt")[1:]} == {'"1"'}


def test_what_an_earlier_run_left_is_gone_on_with(web: Web, client: Client, tmp_path: Path) -> None:
    web.pages["/model.pt"] = Page(CONTENT, {"ETag": '"1"'}, breaks=[2**20, 0, 0, 0, 0])
    wanted = Wanted(web.url("/model.pt"), "model.pt")
    with pytest.raises(ModelError, match=r"run the same again: it goes on with the 1,\d{3},\d{3} bytes"):
        fetch(client, wanted, tmp_path)
    assert not (tmp_path / "model.pt").exists(), "a part is never taken for the file"
    web.pages["/model.pt"].breaks.clear()
    web.asked.clear()
    assert fetch(Client(Policy.of(["localhost"])), wanted, tmp_path).read_bytes() == CONTENT
    [headers] = web.of("/model.pt")
    assert headers["range"].startswith("bytes=1")


@pytest.mark.parametrize("ranges", [True, False], ids=["by its ETag", "by a server that knows no parts"])
def test_two_states_of_a_file_are_never_put_together(web: Web, client: Client, tmp_path: Path, ranges: bool) -> None:
    web.pages["/model.pt"] = Page(bytes(2**21), {"ETag": '"old"'}, breaks=[2**20, 0, 0, 0, 0])
    wanted = Wanted(web.url("/model.pt"), "model.pt")
    with pytest.raises(ModelError):
        fetch(client, wanted, tmp_path)
    web.pages["/model.pt"] = Page(CONTENT, {"ETag": '"new"'}, ranges=ranges)
    assert fetch(client, wanted, tmp_path).read_bytes() == CONTENT


def test_a_part_of_no_known_state_is_fetched_anew(web: Web, client: Client, tmp_path: Path) -> None:
    web.pages["/model.pt"] = Page(CONTENT, {"ETag": 'W/"weak"'}, breaks=[2**20])
    assert fetch(client, Wanted(web.url("/model.pt"), "model.pt"), tmp_path).read_bytes() == CONTENT
    assert [headers.get("range") for headers in web.of("/model.pt")] == [None, None]


@pytest.mark.parametrize(
    ("page", "wanted", "words"),
    [
        (Page(CONTENT), {"sha256": "0" * 64}, "sent another file than it should: its SHA-256"),
        (Page(CONTENT), {"blob": "0" * 40}, "sent another file than it should: its Git hash"),
        (Page(CONTENT), {"size": len(CONTENT) - 1}, "and 3,145,744 are on record; it was not fetched"),
        (Page(CONTENT[:1000], length=2000), {}, "could not be fetched .*broke off"),
        (Page(CONTENT[:1000], length=500), {"size": 1000}, "has 500 bytes, and 1,000 are on record"),
        (Page(endless=True), {}, "sends more than 2,000,000 bytes, and does not end"),
        (Page(endless=True), {"size": 70_000}, "sends more than 70,000 bytes, and does not end"),
        (Page(CONTENT, {"Content-Encoding": "gzip"}), {}, "packed"),
        (Page(b"", status=404), {}, "is not there .the server answers 404"),
        (Page(b"", status=403), {}, "HF_TOKEN"),
        (Page(b"", status=503), {}, "could not be fetched .the server answers 503"),
        (Page(b"", status=302, headers={"Location": "/model.pt"}), {}, "leads on and on"),
    ],
    ids=[
        "another hash",
        "another Git hash",
        "another size",
        "less than told",
        "more than told",
        "endless",
        "endless, size known",
        "packed",
        "gone",
        "closed",
        "down",
        "circle",
    ],
)
def test_what_is_not_the_file_that_was_meant_is_not_kept(
    web: Web,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: Page,
    wanted: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr(downloading, "LARGEST", 2_000_000 if page.endless else downloading.LARGEST)
    web.pages["/model.pt"] = page
    with pytest.raises(ModelError, match=words) as caught:
        fetch(client, Wanted(web.url("/model.pt"), "model.pt", **wanted), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("http://localhost:{port}/model.pt", "without encryption"),
        ("http://169.254.169.254/latest/meta-data", "without encryption"),
        (
            "https://169.254.169.254/latest/meta-data",
            "169.254.169.254, which lies in this machine or a private network",
        ),
        ("https://[fd00:ec2::254]/latest", "private network"),
        ("https://127.0.0.1:{port}/model.pt", "private network"),
        ("https://user:secret@localhost:{port}/model.pt", "password"),
        ("file:///etc/passwd", "only https addresses are"),
        ("ftp://localhost/x", "only https addresses are"),
    ],
)
def test_where_a_server_may_not_lead(web: Web, client: Client, tmp_path: Path, location: str, words: str) -> None:
    port = web.host.partition(":")[2]
    web.pages["/start"] = Page(status=302, headers={"Location": location.format(port=port)})
    web.pages["/model.pt"] = Page(CONTENT)
    with pytest.raises(ModelError, match=words) as caught:
        fetch(client, Wanted(web.url("/start"), "model.pt"), tmp_path)
    assert "secret" not in str(caught.value)
    assert [path for path, _ in web.asked] == ["/start"], "nothing was asked there"
    assert not (tmp_path / "model.pt").exists()


def test_where_a_server_may_lead(web: Web, client: Client, tmp_path: Path) -> None:
    web.pages["/start"] = Page(status=302, headers={"Location": "/files/model.pt?signature=secret"})
    web.pages["/files/model.pt"] = Page(CONTENT)
    assert fetch(client, Wanted(web.url("/start"), "model.pt"), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "10.0.0.1",
    ]
    + [
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "[fe80::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "224.0.0.1",
    ],
)
def test_this_machine_and_private_networks_are_not_asked(web: Web, tmp_path: Path, host: str) -> None:
    port = web.host.partition(":")[2]
    web.pages["/model.pt"] = Page(CONTENT)
    with pytest.raises(ModelError, match=r"which lies in this machine or a private network") as caught:
        fetch(Client(Policy.of()), Wanted(f"https://{host}:{port}/model.pt", "model.pt"), tmp_path)
    assert f"--allow-host {host.strip('[]')}" in str(caught.value)
    assert web.asked == []


def test_addresses_of_the_internet_are_public() -> None:
    assert all(is_public(address) for address in ("1.1.1.1", "18.154.227.7", "2600:9000:2670::1", "64:ff9b::101:101"))


def test_a_lab_names_its_own_host_exactly(web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    web.pages["/model.pt"] = Page(CONTENT)
    monkeypatch.setenv("SCFM_MIRROR_HOSTS", "mirror.lab, LOCALHOST")
    assert fetch(Client(Policy.of()), Wanted(web.url("/model.pt"), "model.pt"), tmp_path).is_file()
    for other in ("localhost.evil.example", "ocalhost", "mirror.la"):
        assert other not in Policy.of().hosts


def test_a_certificate_must_be_of_the_name_and_of_a_known_authority(
    web: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    web.pages["/model.pt"] = Page(CONTENT)
    port = web.host.partition(":")[2]
    with pytest.raises(ModelError, match=r"certificate of https://127\.0\.0\.1:\d+/model\.pt is not accepted"):
        fetch(Client(Policy.of(["127.0.0.1"])), Wanted(f"https://127.0.0.1:{port}/model.pt", "a.pt"), tmp_path)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(ModelError, match="is not accepted"):
        fetch(Client(Policy.of(["localhost"])), Wanted(web.url("/model.pt"), "a.pt"), tmp_path)
    assert web.asked == []


def test_a_token_is_shown_to_its_own_host_alone(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Web(tmp_path / "other", encrypted=False)
    try:
        web.pages["/here"] = Page(CONTENT)
        other.pages["/there"] = Page(CONTENT)
        web.pages["/away"] = Page(status=404)
        policy = Policy.of(["localhost"])
        client = Client(policy, token="hf_secret", token_host=web.host)
        fetch(client, Wanted(web.url("/here"), "a.pt"), tmp_path)
        fetch(client, Wanted(other.url("/there"), "b.pt"), tmp_path)
        assert web.of("/here")[0]["authorization"] == "Bearer hf_secret"
        assert "authorization" not in other.of("/there")[0]
        with pytest.raises(ModelError) as caught:
            fetch(client, Wanted(web.url("/away?token=hf_secret"), "c.pt"), tmp_path)
        assert "hf_secret" not in str(caught.value)
    finally:
        other.close()


@pytest.mark.parametrize(
    "url", ["https://", "https:///x", "https://h/\n", "https://h\\@x/", "https://h:99999999/", "//x/y"]
)
def test_what_is_no_address_is_said(client: Client, tmp_path: Path, url: str) -> None:
    with pytest.raises(ModelError) as caught:
        fetch(client, Wanted(url, "a.pt"), tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["../a.pt", "/a.pt", "a\nb.pt"])
def test_a_name_that_would_lie_elsewhere_is_refused(web: Web, client: Client, tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="gives its file the name"):
        fetch(client, Wanted(web.url("/model.pt"), name), tmp_path / "in")
    assert _left(tmp_path) == []


def test_a_full_disk_is_said(
    web: Web, client: Client, disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    point = disk(2)
    monkeypatch.setattr(downloading, "_RESERVE", 0)
    web.pages["/model.pt"] = Page(CONTENT)
    with pytest.raises(StorageError, match=r"Free some space"):
        fetch(client, Wanted(web.url("/model.pt"), "model.pt"), point)
    web.pages["/small.pt"] = Page(CONTENT[:1000])
    assert fetch(client, Wanted(web.url("/small.pt"), "small.pt"), point).stat().st_size == 1000
