"""The bench as one HTML file: the same front end over a model that holds its answers, with no kernel and no network.

What goes along is chosen so that the file stays small; what is left out is said on the page.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, StorageError
from scfm_widgets import describe
from scfm_widgets.codec import Column, plain
from scfm_widgets.columns import FATE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scfm_widgets.lab import Lab
    from scfm_widgets.panel_perturb import PerturbPanel

#: Doses at which a gene's answer goes along; the page interpolates between them.
DOSES = (0.0, 0.5, 1.0, 2.0)
#: Most bytes of gene columns, before they are packed together.
GENE_BYTES = 1_200_000
#: Ends of a trajectory whose probabilities go along.
_MOST_ENDS = 6
#: Most columns of ``obs``.
_MOST_COLUMNS = 40
#: Names of cells go along up to here.
_MOST_NAMES = 20_000
_HERE = Path(__file__).parent


@dataclass
class Payload:
    """What a page holds.

    Attributes
    ----------
    traits
        The bench's state as plain values, by the traits' names.
    buffers
        The traits that are bytes.
    replies
        Answers by question, such as ``"column:gene:CD3D"``: plain values, and bytes or ``None``.
    responses
        One per gene and dose: ``gene``, ``dose``, ``perturbation`` (plain values) and ``after`` (packed places).
    left_out
        What is not on the page, a sentence each.
    """

    traits: dict[str, Any]
    buffers: dict[str, bytes]
    replies: dict[str, tuple[dict[str, Any], bytes | None]] = field(default_factory=dict)
    responses: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def to_json(self) -> str:
        """Give it as the front end reads it (``widgets/src/standalone.ts``); all bytes are deflated together."""
        parts: list[bytes] = []
        at = 0

        def put(data: bytes) -> dict[str, int]:
            nonlocal at
            # Places are pairs of uint16 and must begin at an even byte.
            padded = data + b"\0" * (len(data) % 2)
            parts.append(padded)
            at += len(padded)
            return {"offset": at - len(padded), "length": len(data)}

        document = {
            "traits": plain(self.traits),
            "bytes": {name: put(data) for name, data in self.buffers.items()},
            "replies": {
                key: {"content": plain(content), **({} if data is None else {"buffer": put(data)})}
                for key, (content, data) in self.replies.items()
            },
            "responses": [{**plain({**item, "after": None}), "after": put(item["after"])} for item in self.responses],
            "deflated": True,
        }
        document["data"] = base64.b64encode(zlib.compress(b"".join(parts), 9)).decode()
        # Inside a script element only "</" could end it; "<!--" could open a comment.
        return json.dumps(document, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def payload_of(lab: Lab, *, genes: Iterable[str] = (), wait: bool = True) -> Payload:
    """Collect what a page of this bench holds.

    Parameters
    ----------
    lab
        The bench.
    genes
        Genes whose answers at :data:`DOSES` go along, beside those on the bench. They are computed now, with the model that
        is picked.
    wait
        Wait first until nothing runs any more; a job of the bench itself must not.

    Raises
    ------
    DataError, GenesError, ModelError
        A gene is unknown, or no model is picked that could answer.
    """
    if wait:
        lab.wait()
    session = lab.session
    payload = Payload(
        traits={name: getattr(lab, name) for name in lab.SHARED},
        buffers={name: getattr(lab, name) for name in lab.BYTES},
    )
    asked = list(dict.fromkeys([*_answered(lab), *genes]))
    columns = session.columns.describe()
    for column in columns[:_MOST_COLUMNS]:
        _add(payload, "obs", column["name"], session.columns.of_obs(column["name"]))
    if len(columns) > _MOST_COLUMNS:
        payload.left_out.append(f"{len(columns) - _MOST_COLUMNS:,} columns of obs")
    kept = _genes_to_keep(lab, asked)
    for gene in kept:
        _add(payload, "gene", gene, session.columns.of_gene(gene))
    names = "\n".join(name.replace("\n", " ") for name in kept).encode()
    payload.replies["genes"] = ({"n": len(kept)}, names)
    if len(kept) < session.adata.n_vars:
        payload.left_out.append(f"{session.adata.n_vars - len(kept):,} of {session.adata.n_vars:,} genes")
    if "trajectory" in session.results:
        for name in ("pseudotime", "branch", *_beside(session.results["trajectory"])):
            _add(payload, "result", name, session.columns.of_result(name, session.results))
    if asked:
        _add_responses(payload, lab, asked)
    if session.adata.n_obs <= _MOST_NAMES:
        cells = "\n".join(str(name).replace("\n", " ") for name in session.adata.obs_names).encode()
        payload.replies["cells"] = ({}, cells)
    _settle(payload, lab, asked)
    return payload


def _beside(ordered: Any) -> list[str]:
    """What a trajectory says of each cell beside its order: the order on principal components, and the first few ends."""
    ends = [] if ordered.fates is None else [f"{FATE}{end}" for end in list(ordered.fates)[:_MOST_ENDS]]
    return [*([] if ordered.twin is None else ["twin"]), *ends]


def _answered(lab: Lab) -> list[str]:
    """Genes on the bench that have an answer; one that the model refused has none to take along."""
    shown = lab.session.results.get("perturb")
    refused = shown is None and any(dose != 1.0 for dose in lab.doses.values())
    return [] if refused else list(lab.doses)


def _settle(payload: Payload, lab: Lab, asked: list[str]) -> None:
    """Put the traits into the shape of a page that stands alone."""
    before = "column:result:"
    results = [key.removeprefix(before) for key in payload.replies if key.startswith(before)]
    payload.traits["_meta"] = {
        **payload.traits["_meta"],
        "static": True,
        "responses": asked,
        "results": results,
        "left_out": ", ".join(payload.left_out),
    }
    payload.traits["_uid"] = "page"
    payload.traits["_job"] = None
    payload.traits["_errors"] = []
    payload.traits["_runs"] = []
    # Panels that ask Python have nobody to answer them here.
    kept = {"embedding", *(["perturb"] if asked else []), *(["trajectory"] if "trajectory" in lab.results else [])}
    payload.traits["_panels"] = [row for row in payload.traits["_panels"] if row["component"] in kept]
    # Of the registry only the model that is named above the cells concerns whoever is given the page.
    models, picked = payload.traits["_models"], payload.traits["state"]["model"]
    named = [
        row
        for row in models.get("rows", [])
        if picked in (row["source"], row["name"], f"models:/{row['name']}/{row['version']}")
    ]
    payload.traits["_models"] = {**models, "rows": named, "note": ""}
    # Nobody computes here what was still under way.
    shown = payload.traits["_perturbation"]
    if shown is not None and shown["null"] == "pending":
        payload.traits["_perturbation"] = {**shown, "null": "none"}
    colour = payload.traits["state"]["colour"]
    if colour and f"column:{colour['by']}:{colour['name']}" not in payload.replies:
        payload.traits["state"] = {**payload.traits["state"], "colour": None}


def _add(payload: Payload, by: str, name: str, column: Column) -> None:
    payload.replies[f"column:{by}:{name}"] = ({"column": {**column.about, "key": f"{by}:{name}"}}, column.codes)


def _genes_to_keep(lab: Lab, asked: Sequence[str]) -> list[str]:
    """Genes whose expression goes along: all where they are small, else those asked for and the most variable ones."""
    session = lab.session
    names = [str(name) for name in session.adata.var_names]
    most = max(len(asked), GENE_BYTES // max(1, session.adata.n_obs))
    if len(names) <= most:
        return names
    spread = {name: float(np.var(session.columns.expression(name))) for name in names}
    rest = sorted((name for name in names if name not in asked), key=lambda name: -spread[name])
    chosen = {*asked, *rest[: most - len(asked)]}
    return [name for name in names if name in chosen]


def _add_responses(payload: Payload, lab: Lab, genes: Sequence[str]) -> None:
    """Compute each gene alone at each dose; the answer that is on the bench already keeps its null."""
    session = lab.session
    panel: PerturbPanel = lab.panel("perturb")
    ready = panel.prepare()
    shown: Any = session.results.get("perturb")
    for gene in genes:
        expressing = panel.expressing([gene])
        for dose in DOSES:
            known = (
                shown is not None and dict(shown.doses) == {gene: dose} and shown.layout.basis == ready.projector.basis
            )
            result = shown if known else ready.run({gene: dose})
            described = describe.perturbation(
                result,
                {gene: dose},
                seq=0,
                null="ready" if result.has_null else "none",
                expressing=expressing,
                groupby=session.groupby(),
            )
            after = session.frame.pack(result.layout.after)
            payload.responses.append({"gene": gene, "dose": dose, "perturbation": described, "after": after})
    # What the page shows first must be something it can come back to.
    alone = [(gene, dose) for gene, dose in lab.doses.items() if dose != 1.0]
    if len(alone) > 1:
        payload.left_out.append("doses of several genes together")
        payload.traits["doses"] = dict.fromkeys(lab.doses, 1.0)
        payload.traits["_perturbation"], payload.buffers["_after"] = None, b""
        payload.traits["_after_info"] = {"dtype": "uint16", "n": 0, "version": 0}
    for gene in genes:
        payload.traits["doses"] = {**payload.traits["doses"], gene: payload.traits["doses"].get(gene, 1.0)}


def write_html(
    path: str | Path,
    *,
    title: str,
    lab_or_payload: Lab | Payload,
    sections: Sequence[Mapping[str, str]] = (),
    genes: Iterable[str] = (),
    lead: str = "",
) -> Path:
    """Write a page: a title, the bench, and sections of text and pictures below.

    Parameters
    ----------
    path
        The file; an existing one is replaced in one step, so that nobody finds half of it.
    title
        Of the page.
    lab_or_payload
        A bench, or what :func:`payload_of` gave.
    sections
        Each with a ``heading`` and one of ``text`` (set as it is, line by line), ``html`` (the caller vouches for it), ``svg``
        (shown as a picture, with ``alt`` beside it) or ``table`` (a list of rows, the first one the head).
    genes
        See :func:`payload_of`; only for a bench.
    lead
        One or two sentences below the title.

    Returns
    -------
    The path.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    payload = lab_or_payload if isinstance(lab_or_payload, Payload) else payload_of(lab_or_payload, genes=genes)
    return _write(Path(path), page(payload, title=title, sections=sections, lead=lead))


def page(payload: Payload | None, *, title: str, sections: Sequence[Mapping[str, Any]] = (), lead: str = "") -> str:
    """Give the page as text, without a bench where there is no payload; for the parameters see :func:`write_html`."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
    )
    static = _HERE / "static"
    bench: dict[str, Any] = {}
    if payload is not None:
        bench = {
            "left_out": ", ".join(payload.left_out),
            # These three come from this package; the payload's own "<" are escaped.
            "script": Markup((static / "index.js").read_text(encoding="utf-8")),
            "style": Markup((static / "index.css").read_text(encoding="utf-8")),
            "payload": Markup(payload.to_json()),
        }
    return environment.get_template("page.html.j2").render(
        title=title, lead=lead, sections=[_section(section) for section in sections], **bench
    )


def write_report(path: str | Path, *, title: str, sections: Sequence[Mapping[str, Any]], lead: str = "") -> Path:
    """Write a page of sections alone, without a bench; for the parameters see :func:`write_html`.

    Raises
    ------
    StorageError
        The file cannot be written.
    """
    return _write(Path(path), page(None, title=title, sections=sections, lead=lead))


def _section(given: Mapping[str, Any]) -> dict[str, Any]:
    from markupsafe import Markup

    known = {"heading", "text", "html", "svg", "table", "alt"}
    unknown = set(given) - known
    if unknown:
        message = f"A section has no {sorted(unknown)[0]!r}; it has {', '.join(sorted(known))}."
        raise DataError(message)
    section: dict[str, Any] = {"heading": given.get("heading", ""), "alt": given.get("alt", given.get("heading", ""))}
    if "text" in given:
        section["lines"] = str(given["text"]).splitlines()
    if "html" in given:
        section["html"] = Markup(given["html"])
    if "svg" in given:
        encoded = base64.b64encode(str(given["svg"]).encode()).decode()
        section["picture"] = f"data:image/svg+xml;base64,{encoded}"
    if "table" in given:
        rows = [[str(cell) for cell in row] for row in given["table"]]
        section["head"], section["rows"] = rows[0], rows[1:]
    return section


def _write(path: Path, text: str) -> Path:
    path = path.expanduser()
    name = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            name = file.name
            file.write(text)
        # A temporary file is for its owner only; a page is to be shown.
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        if name:
            with suppress(OSError):
                os.unlink(name)
        message = f"The page cannot be written to {path}: {error.strerror or error}."
        raise StorageError(message) from error
    return path
