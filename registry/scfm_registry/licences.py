"""What the files of a checkpoint say of their licence, and what the name of a licence allows.

Read where files are brought: in the process that is locked (:mod:`scfm_registry.import_worker`).
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from scfm_registry.version import is_line

if TYPE_CHECKING:
    from pathlib import Path

#: Licences that allow commercial use, as SPDX writes them; a card may write them in any case.
PERMISSIVE = (
    "0BSD",
    "AFL-3.0",
    "AGPL-3.0",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC-BY-2.0",
    "CC-BY-2.5",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "CC-BY-SA-3.0",
    "CC-BY-SA-4.0",
    "CC0-1.0",
    "ECL-2.0",
    "EPL-2.0",
    "GPL-2.0",
    "GPL-3.0",
    "ISC",
    "LGPL-2.1",
    "LGPL-3.0",
    "MIT",
    "MPL-2.0",
    "PDDL",
    "Unlicense",
    "Zlib",
)
#: Licences that forbid it, though their names do not say so.
_FORBIDDING = ("apple-amlr", "deepfloyd-if-license", "intel-research", "lgpl-lr")
_FORBIDS = re.compile(
    r"(?<![a-z])(nc|non[- ]?commercial|research[- ]only|research[- ]use[- ]only|academic[- ]only)(?![a-z])"
)
#: The same in the title of a text, in which NC may be a state.
_FORBIDS_IN_WORDS = re.compile(_FORBIDS.pattern.replace("nc|", "", 1))
#: What a card writes where it names none.
_NONE = ("", "none", "null", "unknown", "unlicensed", "n/a")
_FRONT = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n(?:---|\.\.\.)[ \t]*(?:\r?\n|$)", re.DOTALL)
#: Characters of a card's front matter, and of a licence's text, that are looked at.
_LONGEST, _LONGEST_TEXT = 2**15, 200_000
#: Of a text that is not known, its beginning tells what it is called.
_TITLE = 300


def allows(licence: str) -> bool | None:
    """Whether a licence allows commercial use, by its name; ``None`` where that does not tell.

    Examples
    --------
    >>> allows("cc-by-nc-4.0"), allows("mit"), allows("LicenseRef-ours")
    (False, True, None)
    """
    name = licence.casefold().strip()
    if name in _FORBIDDING or _FORBIDS.search(name.replace("_", "-")):
        return False
    parts = [part.strip().removesuffix("-only").removesuffix("-or-later") for part in name.split(" and ")]
    return True if set(parts) <= {known.casefold() for known in PERMISSIVE} else None


def same(one: str, other: str) -> bool:
    """Whether two names are of one licence: cards write them in small letters."""
    return one.casefold().strip() == other.casefold().strip()


def spelled(licence: str) -> str:
    """A licence's name as SPDX writes it, where it is one of the known.

    Examples
    --------
    >>> spelled("cc-by-nc-4.0"), spelled("apache-2.0"), spelled("ours")
    ('CC-BY-NC-4.0', 'Apache-2.0', 'ours')
    """
    if re.fullmatch(r"cc-by(-nc|-nd|-sa)+-\d\.\d", licence):
        return licence.upper()
    return next((known for known in PERMISSIVE if same(known, licence)), licence)


def told(about: Any) -> str:
    """The licence that a card's front matter names, as a mapping; empty where it names none that is a line of text.

    Examples
    --------
    >>> told({"license": "mit"}), told({"license": "other", "license_name": "ours"}), told({"license": ["mit", "cc-by-4.0"]})
    ('MIT', 'ours', 'MIT AND CC-BY-4.0')
    """
    if not isinstance(about, dict):
        return ""
    given = about.get("license", about.get("licence"))
    if given == "other" and about.get("license_name"):
        given = about["license_name"]
    names = given if isinstance(given, list) else [given]
    named = [name.strip() for name in names if isinstance(name, str) and name.strip().casefold() not in _NONE]
    # Whoever is given several may not leave out the one that forbids.
    text = " AND ".join(map(spelled, named))
    return text if is_line(text) else ""


def in_card(card: str) -> str:
    """The licence that a card names in its front matter (YAML between two lines of ``---``); a damaged one names none."""
    import yaml

    found = _FRONT.match(card[:_LONGEST])
    if found is None:
        return ""
    try:
        return told(yaml.safe_load(found.group(1)))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return ""


def in_cards(folder: Path) -> str:
    """The licence that the cards among the files of a folder name; all of them where they differ."""
    from scfm_registry.importing import CARDS

    there = (folder / name for name in CARDS if (folder / name).is_file())
    texts = (path.read_bytes()[: 4 * _LONGEST].decode("utf-8", errors="replace") for path in there)
    return " AND ".join(dict.fromkeys(filter(None, map(in_card, texts))))


def in_file(folder: Path) -> str:
    """What lies among the files of a folder as licences: their names where the texts are known ones, else ``"see LICENSE"``.

    Empty where none does; a notice is none.
    """
    from scfm_registry.sharing.licensing import in_folder

    found = []
    for name, content in in_folder(folder).items():
        if name.rpartition("/")[2].lower().startswith("notice"):
            continue
        text = content[:_LONGEST_TEXT].decode("utf-8", errors="replace")
        forbids = _FORBIDS_IN_WORDS.search(text[:_TITLE].casefold())
        found.append(recognised(text) or f"see {name}{' (non-commercial)' if forbids else ''}")
    # That of the code may lie beside that of the weights, which may be stricter.
    return " AND ".join(dict.fromkeys(found))


def recognised(text: str) -> str:
    """The licence whose text this is, of those whose texts are known here; empty where it is none of them."""
    words = _words(text)
    known = resources.files("scfm_registry.sharing").joinpath("licences")
    found = [file.name for file in known.iterdir() if _terms(file.read_text(encoding="utf-8")) in words]
    return max(found, key=len).removesuffix(".txt") if len(found) == 1 else ""


def _terms(text: str) -> str:
    """The words that each copy of a licence has: without its heading, where that is written in several ways, and its appendix."""
    words = _words(text).partition(" end of terms and conditions ")[0]
    heading, granted, rest = words.partition(" permission is hereby granted ")
    return f"{granted}{rest}" if granted and len(heading.split()) < 5 else words


def _words(text: str) -> str:
    """The words of a licence's text, without whose it is and the like."""
    lines = [line for line in text.casefold().splitlines() if not re.match(r"\W*copyright\W*(\(c\)|©|\d|<)", line)]
    return f" {' '.join(re.findall(r'[a-z0-9]+', ' '.join(lines)))} "


def commercial(allowed: bool | None, own: str, *, named: str | None, card: str, beside: str) -> str:
    """Value of the tag that says whether commercial use is allowed: what the files and people say can only be stricter.

    Parameters
    ----------
    allowed, own
        What the family allows, and its licence.
    named
        The licence that somebody has given.
    card
        The one that the files' card names.
    beside
        What lies among the files as a licence, where nothing names one.

    Examples
    --------
    >>> commercial(True, "BSD-3-Clause", named=None, card="CC-BY-NC-4.0", beside="")
    'false'
    >>> commercial(True, "BSD-3-Clause", named=None, card="MIT", beside="")
    'true'
    """
    said = [name for name in (named, card or None, beside or None) if name is not None]
    if allowed is False or any(allows(name) is False for name in said if not same(name, own)):
        return "false"
    # Who gives a licence by hand has read it; that its authors' own files name it is more.
    sure = [own, *(name for name in (card, beside) if allows(name))]
    return "true" if allowed and all(any(same(name, known) for known in sure) for name in said) else ""
