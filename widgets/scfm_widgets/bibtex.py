"""BibTeX of a model's paper from the citation that its specification tells in words.

Citations of models are written one way, ``Authors (year). Title. Journal volume, pages. doi:…``, one paper after the other; what is
written otherwise stays one note, as its parts cannot be told apart safely.
"""

from __future__ import annotations

import re

#: One paper: authors, year, title, and where it stands. A preprint's number holds full stops of its own.
_PAPER = re.compile(
    r"(?P<authors>[^()]+?) \((?P<year>(?:19|20)\d\d)\)\. (?P<title>(?:(?!\((?:19|20)\d\d\)).)+?)\. "
    r"(?P<journal>[A-Za-z][^.,\d]*?) (?P<place>\d[^ ,.]*(?:\.\d+)*)(?:, (?P<pages>[\w–-]+))?\."
    r"(?: doi:(?P<doi>10\.\S+?)\.?)?(?:\s+|$)"
)
_AUTHOR = re.compile(r"(?P<family>[^,]+), (?P<given>(?:[A-Z]\.[ -]?)+)(?:, | and |$)")
#: Beginning of the DOIs of preprint servers that give a number as their place.
_PREPRINTS = {"bioRxiv": "10.1101/", "medRxiv": "10.1101/", "arXiv": "10.48550/arXiv."}


def entries(key: str, citation: str) -> dict[str, str]:
    """Give the BibTeX entries of a citation by their keys: `key` for its first paper, then with a letter.

    Parameters
    ----------
    key
        Letters and digits.
    citation
        As a model's specification has it.

    Examples
    --------
    >>> print(entries("pca", "Pearson, K. (1901). On lines and planes of closest fit. Philosophical Magazine 2, 559-572.")["pca"])
    @article{pca,
      title = {On lines and planes of closest fit},
      author = {Pearson, K.},
      journal = {Philosophical Magazine},
      volume = {2},
      pages = {559--572},
      year = {1901}
    }
    """
    papers, at = [], 0
    while at < len(citation):
        paper = _PAPER.match(citation, at)
        if paper is None:
            year = re.search(r"\b(19|20)\d\d\b", citation)
            return {key: _entry("misc", key, {"note": citation, "year": year.group() if year else None})}
        papers.append(paper)
        at = paper.end()
    keys = [key, *(f"{key}{chr(ord('b') + i)}" for i in range(len(papers) - 1))]
    return {name: _article(name, paper) for name, paper in zip(keys, papers, strict=True)}


def _article(key: str, paper: re.Match[str]) -> str:
    journal, place = paper["journal"], paper["place"]
    preprint = _PREPRINTS.get(journal)
    fields = {
        # Capitals within words are names.
        "title": re.sub(r"\b(\w*[a-z0-9]\w*[A-Z]\w*|[A-Z]{2,}\w*)\b", r"{\1}", paper["title"]),
        "author": _authors(paper["authors"]),
        "journal": journal,
        "volume": None if preprint else place,
        "number": place if preprint else None,
        "pages": (paper["pages"] or "").replace("–", "-").replace("-", "--") or None,
        "year": paper["year"],
        "doi": paper["doi"] or (f"{preprint}{place}" if preprint else None),
    }
    return _entry("article", key, fields)


def _authors(text: str) -> str:
    """Authors as BibTeX has them; "et al." are others."""
    named, others = re.subn(r",? et al\.$", "", text.strip())
    found = [f"{author['family']}, {author['given'].strip()}" for author in _AUTHOR.finditer(named)]
    people = " and ".join(found) if found else f"{{{named}}}"
    return f"{people} and others" if others else people


def _entry(kind: str, key: str, fields: dict[str, str | None]) -> str:
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items() if value)
    return f"@{kind}{{{key},\n{lines}\n}}"
