"""The bench as one HTML file: the same front end over a model that holds its answers, with no kernel and no network.

What goes along is chosen so that the file stays below :data:`PAGE_BYTES`, the first things first: places, what colours the
cells, genes that were asked for with their answers, then columns, results and other genes. What is left out is said on the page.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scfm_lab.errors import DataError, StorageError
from scfm_widgets import describe
from scfm_widgets.codec import Column, plain
from scfm_widgets.columns import FATE
from scfm_widgets.panel_embedding import gene_lines
from scfm_widgets.payload import Payload, Room, packed_size
from scfm_widgets.together import add_together, leave_out_effect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from scfm_widgets.lab import Lab
    from scfm_widgets.panel_perturb import PerturbPanel

#: Doses at which a gene's answer goes along; the page interpolates between them.
DOSES = (0.0, 0.5, 1.0, 2.0)
#: Most bytes of a page. Only where places, selection and state alone take more (millions of cells) is it larger.
PAGE_BYTES = 10_000_000
#: Of these, what the page's own text, the frame of its JSON and sections beside the bench may take.
_RESERVED = 300_000
#: Most bytes of gene columns, before they are packed together.
GENE_BYTES = 1_200_000
#: Ends of a trajectory whose probabilities go along.
_MOST_ENDS = 6
#: Most columns of ``obs``.
_MOST_COLUMNS = 40
#: Names of cells go along up to here.
_MOST_NAMES = 20_000
#: What a result says of the cells at its own doses alone, while a page's doses can be turned.
_OF_DOSES = {"shift": "how far each cell moved", "error": "the projection error"}
_HERE = Path(__file__).parent


def payload_of(lab: Lab, *, genes: Iterable[str] | str = (), wait: bool = True, cancel: Any = None) -> Payload:
    """Collect what a page of this bench holds.

    Parameters
    ----------
    lab
        The bench.
    genes
        Genes, or one gene, whose answers at :data:`DOSES` go along, beside those on the bench. They are computed now, with the model that
        is picked. Without any, an effect that this model does not answer just so (Python has set it) goes along alone.
    wait
        Wait first until nothing runs any more; a job of the bench itself must not.
    cancel
        A ``threading.Event`` that stops the computing of answers.

    Raises
    ------
    Cancelled
        `cancel` was set.
    DataError, GenesError, ModelError
        The AnnData has more or fewer cells than the bench was opened with, a gene is unknown, or genes are named and no model is
        picked that could answer.
    """
    if wait:
        # Columns are read now, and the answers on the bench may be of the cells as they were.
        lab.look_again()
        lab.wait()
    session = lab.session
    payload = Payload(
        traits={name: getattr(lab, name) for name in lab.SHARED},
        buffers={name: getattr(lab, name) for name in lab.BYTES},
    )
    # A name alone would be taken for its letters.
    named_genes = [genes] if isinstance(genes, str) else list(genes)
    asked = list(dict.fromkeys([*_answered(lab), *named_genes]))
    room = _room(payload)
    _add_colour(payload, lab, room)
    # A gene may be asked for by another name than that of its column.
    named = list(dict.fromkeys(name for gene in asked if (name := session.columns.gene(gene)) is not None))
    for gene in dict.fromkeys([*named, *lab.state["follow"]]):
        _add(payload, "gene", gene, session.columns.of_gene(gene), room)
    if named_genes or _can_answer(lab):
        answered = _add_responses(payload, lab, asked, room, cancel) if asked else []
    else:
        answered = []
        payload.kernel_only.append("other doses than those that are shown")
    _add_columns(payload, lab, room)
    if "trajectory" in session.results:
        kept, further = _beside(session.results["trajectory"])
        results = ("pseudotime", "branch", *kept)
        missed = [
            name
            for name in results
            if not _add(payload, "result", name, session.columns.of_result(name, session.results), room)
        ]
        missed += further
        if missed:
            payload.left_out.append(f"of the trajectory: {', '.join(missed)}")
    _add_genes(payload, lab, named, room)
    cells = "\n".join(str(name).replace("\n", " ") for name in session.adata.obs_names).encode()
    if session.adata.n_obs <= _MOST_NAMES and room.take(cells):
        payload.replies["cells"] = ({}, cells)
    else:
        payload.left_out.append("the cells' names")
    _settle(payload, lab, answered)
    return payload


def _room(payload: Payload) -> Room:
    """What is free beside what every page holds; a second plane makes room where there is none."""
    static = sum((_HERE / "static" / name).stat().st_size for name in ("index.js", "index.css"))
    text = len(json.dumps(plain(payload.traits)))
    room = Room(PAGE_BYTES - _RESERVED - static - text)
    room.left -= packed_size(*payload.buffers.values())
    if room.left < 0 and payload.buffers["_second"]:
        room.left += packed_size(payload.buffers["_second"])
        payload.buffers["_second"] = b""
        payload.traits["_second_info"] = {**payload.traits["_second_info"], "n": 0}
        payload.traits["state"] = {**payload.traits["state"], "second": None}
        payload.left_out.append("the second plane")
    return room


def _add_colour(payload: Payload, lab: Lab, room: Room) -> None:
    """What colours the cells now goes first."""
    colour, session = lab.state["colour"], lab.session
    if colour and colour["by"] == "result" and colour["name"] in _OF_DOSES:
        payload.kernel_only.append(f"colouring the cells by {_OF_DOSES[colour['name']]}")
        groups = session.groupby() or session.columns.favourite()
        colour = {"by": "obs", "name": groups} if groups else None
        payload.traits["state"] = {**payload.traits["state"], "colour": colour, "hidden": [], "range": None}
    if not colour:
        return
    give = {"obs": session.columns.of_obs, "gene": session.columns.of_gene}.get(colour["by"])
    # A result of which there is nothing left has no column.
    with suppress(DataError):
        column = give(colour["name"]) if give else session.columns.of_result(colour["name"], session.results)
        _add(payload, colour["by"], colour["name"], column, room)


def _add_columns(payload: Payload, lab: Lab, room: Room) -> None:
    """The first columns of ``obs``, that of the groups before the others."""
    session = lab.session
    names = [column["name"] for column in session.columns.describe()]
    grouped = session.groupby()
    ordered = sorted(names, key=lambda name: name != grouped)
    missed = [
        name for name in ordered[:_MOST_COLUMNS] if not _add(payload, "obs", name, session.columns.of_obs(name), room)
    ]
    missing = len(missed) + len(ordered[_MOST_COLUMNS:])
    if missing:
        payload.left_out.append(f"{missing:,} columns of obs")


def _add_genes(payload: Payload, lab: Lab, asked: Sequence[str], room: Room) -> None:
    """Expression of genes, those that were asked for and then the most variable ones."""
    columns = lab.session.columns
    kept = {gene for gene in _genes_to_keep(lab, asked) if _add(payload, "gene", gene, columns.of_gene(gene), room)}
    names = columns.names
    there = [name for name in names if name in kept or f"column:gene:{name}" in payload.replies]
    payload.replies["genes"] = gene_lines(columns, there)
    if len(there) < len(names):
        payload.left_out.append(f"{len(names) - len(there):,} of {len(names):,} genes")


def _beside(ordered: Any) -> tuple[list[str], list[str]]:
    """What a trajectory says of each cell beside its order: the order on principal components, and the first few ends.

    Returns
    -------
    These, and the further ends, which do not go along.
    """
    ends = [] if ordered.fates is None else [f"{FATE}{end}" for end in ordered.fates]
    return [*([] if ordered.twin is None else ["twin"]), *ends[:_MOST_ENDS]], ends[_MOST_ENDS:]


def _answered(lab: Lab) -> list[str]:
    """Genes on the bench that have an answer; one that the model refused has none to take along."""
    shown = lab.results.get("perturb")
    refused = shown is None and any(dose != 1.0 for dose in lab.doses.values())
    return [] if refused else list(lab.doses)


def _can_answer(lab: Lab) -> bool:
    """Whether sliders would answer as the effect that is shown was computed: where not, it goes along alone."""
    shown = lab.session.results.get("perturb")
    return shown is None or (bool(lab.state["model"]) and lab.panel("perturb").is_own(shown))


def _settle(payload: Payload, lab: Lab, asked: list[str]) -> None:
    """Put the traits into the shape of a page that stands alone."""
    before = "column:result:"
    results = [key.removeprefix(before) for key in payload.replies if key.startswith(before)]
    payload.traits["_meta"] = {
        **payload.traits["_meta"],
        "static": True,
        "responses": asked,
        "together": [item["doses"] for item in payload.together],
        "results": results,
        "left_out": ", ".join(payload.left_out),
    }
    payload.traits["_uid"] = "page"
    payload.traits["_job"] = None
    payload.traits["_errors"] = []
    payload.traits["_runs"] = []
    # Panels that ask Python have nobody to answer them here, and what they show stays with them.
    perturbed = asked or payload.traits["_perturbation"] is not None
    kept = {"embedding", *(["perturb"] if perturbed else []), *(["trajectory"] if "trajectory" in lab.results else [])}
    panels = payload.traits["_panels"]
    payload.traits["_panels"] = [row for row in panels if row["component"] in kept]
    payload.traits |= dict.fromkeys(("_screen", "_compared"))
    _tell_kernel_only(payload, lab, [row["title"] for row in panels if row["component"] not in kept])
    # Of the registry only the model that is named above the cells concerns whoever is given the page.
    models, picked = payload.traits["_models"], payload.traits["state"]["model"]
    named = [row for row in models.get("rows", []) if picked in row["sources"]]
    payload.traits["_models"] = {**models, "rows": named, "note": ""}
    # Nobody computes here what was still under way.
    shown = payload.traits["_perturbation"]
    if shown is not None and shown["null"] in ("pending", "stopped"):
        payload.traits["_perturbation"] = {**shown, "null": "none"}
    colour = payload.traits["state"]["colour"]
    if colour and f"column:{colour['by']}:{colour['name']}" not in payload.replies:
        payload.traits["state"] = {**payload.traits["state"], "colour": None, "range": None}


def _tell_kernel_only(payload: Payload, lab: Lab, panels: Sequence[str]) -> None:
    """Say what a page cannot do, beside what has been left out for its size."""
    told = [f"the panels {', '.join(panels)}"] if panels else []
    names = {"screen": "the table of the screen", "compare": "the comparison of models", "similar_genes": "genes alike"}
    told += [words for task, words in names.items() if task in lab.results]
    if "trajectory" in lab.results:
        told.append("genes along the paths")
    if len(lab.session.layouts()) > 1:
        told.append("other layouts of the cells")
    payload.kernel_only = [*told, *payload.kernel_only]


def _add(payload: Payload, by: str, name: str, column: Column, room: Room) -> bool:
    """Put a column on the page; False where there is no room for it."""
    key, about = f"column:{by}:{name}", {**column.about, "key": f"{by}:{name}"}
    if key in payload.replies:
        return True
    if not room.take(column.codes, text=len(json.dumps(plain(about)))):
        return False
    payload.replies[key] = ({"column": about}, column.codes)
    return True


def _genes_to_keep(lab: Lab, asked: Sequence[str]) -> list[str]:
    """Genes whose expression goes along: those asked for, then the others, of many the most variable ones."""
    session = lab.session
    variances = session.columns.spread()
    names = session.columns.names
    most = max(len(asked), GENE_BYTES // max(1, session.adata.n_obs))
    first = [name for name in dict.fromkeys(asked) if name in set(names)]
    order = range(len(names)) if len(names) <= most else np.argsort(-variances, kind="stable")
    rest = [names[i] for i in order if names[i] not in first]
    return [*first, *rest[: max(0, most - len(first))]]


def _add_responses(payload: Payload, lab: Lab, genes: Sequence[str], room: Room, cancel: Any = None) -> list[str]:
    """Compute each gene alone at each dose: the genes for whose answers there was room.

    The answer that is on the bench already keeps its null.
    """
    session = lab.session
    panel: PerturbPanel = lab.panel("perturb")
    ready = panel.prepare(cancel)
    shown: Any = session.results.get("perturb")
    own = shown is not None and panel.is_own(shown)
    answered, without_null = [], False
    for gene in genes:
        expressing = panel.expressing([gene])
        responses: list[dict[str, Any]] = []
        for dose in DOSES:
            known = own and dict(shown.doses) == {gene: dose} and shown.layout.basis == ready.projector.basis
            result = shown if known else ready.run({gene: dose}, cancel=cancel)
            described = describe.perturbation(
                result,
                {gene: dose},
                seq=0,
                null="ready" if result.has_null else "none",
                expressing=expressing,
                order=session.columns.order(describe.groupby_of(result)),
            )
            after = session.frame.pack(result.layout.after)
            responses.append({"gene": gene, "dose": dose, "perturbation": described, "after": after})
            without_null |= dose != 1.0 and not result.has_null
        text = sum(len(json.dumps(plain(item["perturbation"]))) for item in responses)
        places: list[bytes] = [item["after"] for item in responses]
        if room.take(*places, text=text):
            payload.responses += responses
            answered.append(gene)
        else:
            payload.left_out.append(f"the answers of {gene}")
    if without_null:
        payload.kernel_only.append("what comparable genes do, at doses other than those on the bench")
    if shown is not None and not own:
        # Its doses and those of the sliders would be answered by two models, or for other groups.
        payload.left_out.append("the effect that was set from Python, which is not what the sliders answer")
        leave_out_effect(payload)
    add_together(payload, lab, answered, room)
    payload.traits["doses"] = {gene: payload.traits["doses"].get(gene, 1.0) for gene in answered}
    return answered


def write_html(
    path: str | Path,
    *,
    title: str,
    lab_or_payload: Lab | Payload,
    sections: Sequence[Mapping[str, str]] = (),
    genes: Iterable[str] | str = (),
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
            "left_out": payload.left_out,
            "kernel_only": payload.kernel_only,
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
