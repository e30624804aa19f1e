from __future__ import annotations

import pytest

from scfm_lab.errors import ModelError
from scfm_registry.names import Reference, check_alias, check_name, parse

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("starter", Reference("starter")),
        ("starter@champion", Reference("starter", alias="champion")),
        ("starter/12", Reference("starter", version=12)),
        ("models:/starter@champion", Reference("starter", alias="champion")),
        ("models:/starter/3", Reference("starter", version=3)),
        ("models:starter/3", Reference("starter", version=3)),
        (DIGEST, Reference("", digest=DIGEST)),
        (f"models:/{DIGEST}", Reference("", digest=DIGEST)),
    ],
)
def test_a_reference_is_read_with_and_without_its_prefix(text: str, expected: Reference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", [DIGEST[:-1], DIGEST.upper(), DIGEST + "\n", "md5:" + "0" * 32, f"starter@{DIGEST}"])
def test_what_is_not_quite_a_digest_is_no_reference(text: str) -> None:
    with pytest.raises(ModelError, match="lower-case letter"):
        parse(text)


@pytest.mark.parametrize("name", ["a", "scgpt-human", "x" * 63, "a1-b2"])
def test_names_that_are_allowed(name: str) -> None:
    assert check_name(name) == name
    assert check_alias(name) == name


HOSTILE = [
    "",
    "A",
    "1a",
    "-a",
    "é",
    "a_b",
    "a b",
    "a..b",
    "a\\b",
    "../a",
    "a\n",
    "a\x00",
    "x" * 64,
    "x" * 257,
    "а",
    "a/b/c",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_names_that_are_refused_are_shown_without_control_characters(name: str) -> None:
    for refuse in (check_name, check_alias):
        with pytest.raises(ModelError, match="lower-case letter") as caught:
            refuse(name)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("alias", ["latest", "v1", "v20"])
def test_aliases_that_mlflow_reserves_are_refused(alias: str) -> None:
    with pytest.raises(ModelError, match="reserved"):
        check_alias(alias)


@pytest.mark.parametrize(
    "text", ["starter/", "starter/0", "starter/-1", "starter/1.5", "starter/١", "starter@", "starter/1/2"]
)
def test_references_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(ModelError):
        parse(text)
