"""BibTeX of models' papers: what journals and preprint servers need, from the citation that a model's specification tells."""

from __future__ import annotations

import re

import pytest

from scfm_lab import plugins
from scfm_widgets.bibtex import entries

SCGPT = (
    "Cui, H., Wang, C., Maan, H. et al. (2024). scGPT: toward building a foundation model for single-cell multi-omics using "
    "generative AI. Nature Methods 21, 1470-1480. doi:10.1038/s41592-024-02201-0."
)


def fields(entry: str) -> dict[str, str]:
    return dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.M))


def test_a_paper_is_an_article_with_what_finds_it() -> None:
    (entry,) = entries("scgpt", SCGPT).values()
    assert entry.startswith("@article{scgpt,")
    assert fields(entry) == {
        "title": "{scGPT}: toward building a foundation model for single-cell multi-omics using generative {AI}",
        "author": "Cui, H. and Wang, C. and Maan, H. and others",
        "journal": "Nature Methods",
        "volume": "21",
        "pages": "1470--1480",
        "year": "2024",
        "doi": "10.1038/s41592-024-02201-0",
    }


def test_a_preprint_has_its_number_and_doi_and_the_second_paper_an_entry_of_its_own() -> None:
    both = f"{SCGPT} Pearce, J. D., Simmonds, S. E. and Roe, A. (2025). Across 1.5 billion years of it. bioRxiv 2025.04.25.650731."
    found = entries("model", both)
    assert list(found) == ["model", "modelb"]
    second = fields(found["modelb"])
    assert (second["title"], second["journal"]) == ("Across 1.5 billion years of it", "bioRxiv")
    assert second["author"] == "Pearce, J. D. and Simmonds, S. E. and Roe, A."
    assert (second["number"], second["doi"]) == ("2025.04.25.650731", "10.1101/2025.04.25.650731")
    assert "volume" not in second


@pytest.mark.parametrize(
    "citation",
    ["scfm-lab developers (2026). starter: a small transformer.", "A page of 2021", "Roe, A. (2020). No end"],
)
def test_what_cannot_be_told_apart_stays_one_note(citation: str) -> None:
    (entry,) = entries("k", citation).values()
    assert entry.startswith("@misc{k,")
    assert fields(entry)["note"] == citation


def test_every_published_model_that_comes_along_is_cited_as_an_article() -> None:
    models = [item for item in plugins.discover().contributions("models") if item.data.get("needs_files")]
    told = {item.id: item.data["citation"] for item in models if item.data.get("citation")}
    assert len(told) >= 6
    for name, citation in told.items():
        for entry in entries("k", citation).values():
            found = fields(entry)
            assert entry.startswith("@article"), name
            assert found["author"].endswith("and others"), name
            assert found["doi"].startswith("10."), f"{name}: no DOI, and none follows from {found['journal']}"
