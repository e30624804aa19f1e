"""A paragraph for a paper from the provenance of what is on the bench, and the BibTeX of what it cites."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from scfm_lab.errors import plural
from scfm_widgets.bibtex import entries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scfm_widgets.lab import Lab

#: What the bench's results rest on.
REFERENCES = {
    "wolf2018scanpy": """@article{wolf2018scanpy,
  title = {{SCANPY}: large-scale single-cell gene expression data analysis},
  author = {Wolf, F. Alexander and Angerer, Philipp and Theis, Fabian J.},
  journal = {Genome Biology}, volume = {19}, pages = {15}, year = {2018}, doi = {10.1186/s13059-017-1382-0}
}""",
    "virshup2024anndata": """@article{virshup2024anndata,
  title = {anndata: Access and store annotated data matrices},
  author = {Virshup, Isaac and Rybakov, Sergei and Theis, Fabian J. and Angerer, Philipp and Wolf, F. Alexander},
  journal = {Journal of Open Source Software}, volume = {9}, number = {101}, pages = {4371}, year = {2024},
  doi = {10.21105/joss.04371}
}""",
    "mcinnes2018umap": """@article{mcinnes2018umap,
  title = {{UMAP}: Uniform Manifold Approximation and Projection for Dimension Reduction},
  author = {McInnes, Leland and Healy, John and Melville, James},
  journal = {arXiv preprint arXiv:1802.03426}, year = {2018}
}""",
    "haghverdi2016dpt": """@article{haghverdi2016dpt,
  title = {Diffusion pseudotime robustly reconstructs lineage branching},
  author = {Haghverdi, Laleh and B{\\"u}ttner, Maren and Wolf, F. Alexander and Buettner, Florian and Theis, Fabian J.},
  journal = {Nature Methods}, volume = {13}, pages = {845--848}, year = {2016}, doi = {10.1038/nmeth.3971}
}""",
    "wolf2019paga": """@article{wolf2019paga,
  title = {{PAGA}: graph abstraction reconciles clustering with trajectory inference through a topology preserving map of
           single cells},
  author = {Wolf, F. Alexander and Hamey, Fiona K. and Plass, Mireya and Solana, Jordi and Dahlin, Joakim S. and
            G{\\"o}ttgens, Berthold and Rajewsky, Nikolaus and Simon, Lukas and Theis, Fabian J.},
  journal = {Genome Biology}, volume = {20}, pages = {59}, year = {2019}, doi = {10.1186/s13059-019-1663-x}
}""",
    "benjamini1995fdr": """@article{benjamini1995fdr,
  title = {Controlling the False Discovery Rate: A Practical and Powerful Approach to Multiple Testing},
  author = {Benjamini, Yoav and Hochberg, Yosef},
  journal = {Journal of the Royal Statistical Society: Series B}, volume = {57}, number = {1}, pages = {289--300},
  year = {1995}, doi = {10.1111/j.2517-6161.1995.tb02031.x}
}""",
}


def methods_of(lab: Lab) -> tuple[str, str]:
    """Give the paragraph and the BibTeX; both speak of what is on the bench and of nothing else."""
    adata = lab.adata
    results: dict[str, Any] = dict(lab.results)
    cited: dict[str, str] = {}

    def cite(key: str) -> str:
        cited[key] = REFERENCES[key]
        return f"[{key}]"

    packages: dict[str, str] = {}
    told: list[str] = [
        f"{adata.n_obs:,} cells × {adata.n_vars:,} genes were analysed with scfm-lab{{version}} on AnnData objects "
        f"{cite('virshup2024anndata')}."
    ]
    models: dict[str, str] = {}
    for one in _made_by(lab, results):
        name = f"{one['model']} {one.get('version')} {one.get('weights_sha256')}"
        if name not in models:
            models[name] = _model(one, cited)
    told += models.values()
    for task, result in results.items():
        packages |= dict(result.provenance.get("packages", {}))
        if task in _TASKS:
            told.append(_TASKS[task](result, cite))
    layout = dict(dict(adata.uns.get("scfm", {})).get(lab.state["layout"], {}))
    if layout.get("task") == "layout":
        told.append(
            f"Cells are shown on a UMAP {cite('mcinnes2018umap')} of obsm[{str(layout['of'])!r}], computed with scanpy "
            f"{cite('wolf2018scanpy')} (seed {layout.get('seed', 0)})."
        )
    if len(told) == 1:
        told.append("No result has been computed on the bench yet.")
    versions = [f"{name} {version}" for name, version in packages.items() if name not in ("scfm-lab",)]
    if versions:
        told.append(f"Versions: {', '.join(versions)}.")
    version = f" {packages['scfm-lab']}" if "scfm-lab" in packages else ""
    return " ".join(told).replace("{version}", version), "\n\n".join(cited.values())


def _made_by(lab: Lab, results: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Records of the models behind what is on the bench."""
    for task in ("embed", "perturb", "screen", "compare", "gene_attention", "similar_genes"):
        if task in results:
            record = results[task].provenance
            yield from record["of"] if task == "compare" else [record]
    if "trajectory" in results:
        # Along vectors that may have been made in an earlier session.
        of = dict(dict(lab.adata.uns.get("scfm", {})).get(results["trajectory"].provenance["use_rep"], {}))
        if of.get("model"):
            yield of


def _model(record: Mapping[str, Any], cited: dict[str, str]) -> str:
    name = str(record["model"])
    key = re.sub(r"[^a-z0-9]", "", name.lower()) or "model"
    citation = str(record.get("citation") or "")
    papers = entries(key, citation) if citation else {}
    cited |= papers
    weights = str(record.get("weights_sha256") or "").removeprefix("sha256:")
    parts = [
        f"version {record['version']}" if record.get("version") else "",
        f"weights SHA-256 {weights[:12]}…" if weights else "",
        f"licence {record['licence']}" if record.get("licence") else "",
        f"{record['precision']} on {record['device']}" if record.get("precision") else "",
    ]
    seen = ""
    if record.get("genes_total"):
        seen = (
            f"; it knows {int(record['genes_matched']):,} of the {int(record['genes_total']):,} genes, which hold "
            f"{float(record.get('umi_share_matched', 1.0)):.1%} of the counts"
        )
    return (
        f"Model {name}{''.join(f' [{paper}]' for paper in papers)} was used ({', '.join(filter(None, parts))}){seen}."
    )


def _embedded(result: Any, cite: Any) -> str:
    del cite
    rule = str(result.provenance.get("determinism") or "")
    return f"Each cell's counts gave one vector of length {result.vectors.shape[1]}{f' ({rule})' if rule else ''}."


def _perturbed(result: Any, cite: Any) -> str:
    told = result.provenance
    asked = [f"{gene} at dose {dose:g}" for gene, dose in result.doses.items()]
    asked += [f"{gene} set to {level:g} counts per 10,000" for gene, level in result.set_to.items()]
    meaning = (
        "; a dose of 0 removes a gene's counts, one below 1 thins them binomially and one above 1 adds Poisson counts at the "
        "group's rate"
        if result.doses
        else ""
    )
    text = (
        f"Perturbation in silico: {', '.join(asked)}{meaning} (draws: {told.get('draws', 1)}, seed {told.get('seed', 0)}). The "
        "effect is the Euclidean distance by which a cell's vector moves."
    )
    if result.has_null:
        n = int(result.table["n_null"].max())
        text += (
            f" It was held against the same perturbation of {n} comparable genes, matched in expression; p-values of groups "
            f"were corrected by Benjamini and Hochberg {cite('benjamini1995fdr')}."
        )
    return text


def _screened(result: Any, cite: Any) -> str:
    told = result.provenance
    text = (
        f"Screen in silico: each of {plural(told['genes'], 'gene', 'genes')} alone at dose {result.dose:g} in "
        f"{plural(told['cells'], 'cell', 'cells')} (draws: {told.get('draws', 1)}, seed {told.get('seed', 0)}). Each gene was "
        f"held against comparable genes, matched in expression, and p-values were corrected by Benjamini and Hochberg "
        f"{cite('benjamini1995fdr')}."
    )
    if told.get("max_cells"):
        text += f" At most {int(told['max_cells']):,} cells of each group were taken."
    return text


def _ordered(result: Any, cite: Any) -> str:
    told = result.provenance
    return (
        f"Cells were ordered by diffusion pseudotime {cite('haghverdi2016dpt')} along obsm[{told['use_rep']!r}] from cell "
        f"{result.root} ({result.root_group}; {told['n_neighbors']} neighbours, {told['n_dcs']} components), and paths follow "
        f"PAGA's graph {cite('wolf2019paga')} of {result.groupby}, with scanpy {cite('wolf2018scanpy')}."
    )


def _compared(result: Any, cite: Any) -> str:
    del cite
    a, b = result.models
    return (
        f"{a} and {b} were compared by the share of {result.n_neighbors} nearest neighbours that they agree on, and by how "
        "often a cell's neighbours vote for its own group."
    )


def _attended(result: Any, cite: Any) -> str:
    del cite
    return (
        f"Attention of the model's last layer to and from {result.gene} was averaged over its heads and over the "
        f"{plural(result.cells, 'cell', 'cells')} with most counts of that gene, and is no evidence of regulation."
    )


def _alike(result: Any, cite: Any) -> str:
    del cite
    return (
        f"Genes alike to {result.gene} are the {len(result.table)} with the largest cosine of their vectors to its own, in "
        f"{result.embedding}."
    )


_TASKS = {
    "embed": _embedded,
    "perturb": _perturbed,
    "screen": _screened,
    "trajectory": _ordered,
    "compare": _compared,
    "gene_attention": _attended,
    "similar_genes": _alike,
}
