"""Options, files and tokens that cannot mean anything are refused in a sentence, before anything is computed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import writers
import writers_performer
from families import write_family

import scfm_lab as sl
from scfm_lab.errors import DataError, GenesError, ModelError
from scfm_lab.models.geneformer_pairs import overexpressed
from scfm_lab.models.tokens import joined
from scfm_lab.tasks.gene_attention import gene_attention

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData


@pytest.fixture
def scf(every_opened: Callable[[str], Any]) -> Any:
    return every_opened("scfoundation")


@pytest.fixture
def tf(every_opened: Callable[[str], Any]) -> Any:
    return every_opened("transcriptformer")


@pytest.fixture
def cells(pbmc68k: AnnData) -> AnnData:
    return pbmc68k[::250].copy()


# --- tokens and ids ------------------------------------------------------------------------------


def test_tokens_of_another_family_are_refused(every_opened: Callable[[str], Any], scf: Any, cells: AnnData) -> None:
    scgpt, scbert = every_opened("scgpt"), every_opened("scbert")
    tokens = scf.tokenize(cells)
    for call in (scgpt.encode, scgpt.attention, scbert.encode, scbert.token_logits):
        with pytest.raises(ModelError, match="tokens of scfoundation"):
            call(tokens)
    with pytest.raises(ModelError, match="tokens of scgpt"):
        scf.gene_expression(scgpt.tokenize(cells), genes=np.array([1]))
    # Also of some of the cells, and of tokens that do not say.
    with pytest.raises(ModelError, match="tokens of scfoundation"):
        scgpt.encode(tokens.take(np.array([0])))


def test_tokens_of_another_vocabulary_and_ids_that_are_none_are_refused(
    model: Any, every_opened: Callable[[str], Any], cells: AnnData
) -> None:
    tokens = model.tokenize(cells)
    np.testing.assert_array_equal(model.encode(joined([tokens])).cell, model.encode(tokens).cell)
    for wrong in (10**6, -5):
        ids = tokens.ids.copy()
        ids[1] = wrong
        with pytest.raises(ModelError, match=rf"the id {wrong:,}; ids of this {model.family} are 0 to"):
            model.encode(sl.Tokens(ids=ids, values=tokens.values, offsets=tokens.offsets))
    if model.family == "geneformer":
        old, new = every_opened("geneformer_v1"), every_opened("geneformer_v2")
        for one, other in ((old, new), (new, old)):
            with pytest.raises(ModelError, match="another vocabulary"):
                other.encode(joined([one.tokenize(cells[:1].copy()), one.tokenize(cells[1:].copy())]))


def test_scfoundation_reads_tokens_that_were_stored(scf: Any, cells: AnnData) -> None:
    tokens = scf.tokenize(cells)
    stored = sl.Tokens(ids=tokens.ids, values=tokens.values, offsets=tokens.offsets)
    np.testing.assert_array_equal(scf.encode(stored).cell, scf.encode(tokens).cell)
    np.testing.assert_array_equal(scf.attention(stored)[0], scf.attention(tokens)[0])
    some = np.array([0, 5])
    for read in (scf.gene_expression, scf.gene_states):
        np.testing.assert_array_equal(read(stored, genes=some), read(tokens, genes=some))
    # T and S alone are no cell.
    short = sl.Tokens(ids=tokens.ids[-2:], values=tokens.values[-2:], offsets=np.array([0, 2]))  # type: ignore[index]
    assert np.isnan(scf.encode(short).cell).all()


def test_ids_that_are_none_and_batches_of_no_cell_are_refused(
    every_opened: Callable[[str], Any], scf: Any, cells: AnnData
) -> None:
    tokens, scgpt = scf.tokenize(cells), every_opened("scgpt")
    for wrong in (99_999, -1):
        with pytest.raises(GenesError, match="0 to"):
            scf.gene_expression(tokens, genes=np.array([0, wrong]))
        with pytest.raises(GenesError, match="0 to"):
            scgpt.decode_cells(np.zeros((1, scgpt.spec.width), np.float32), np.array([0, wrong]))
    with pytest.raises(DataError, match="at least one cell"):
        scf.gene_states(tokens, genes=np.array([0]), batch_size=0)


def test_a_state_of_cells_that_nobody_sees_has_no_vector(every_opened: Callable[[str], Any], cells: AnnData) -> None:
    model = every_opened("geneformer_v2")
    cells.X = cells.X.multiply(np.array([[1], [0], [1]])).tocsr()
    tokens = model.tokenize(cells)
    with pytest.raises(DataError, match="'gone'"):
        model.state_embeddings(tokens, ["here", "gone", "here"])
    assert set(model.state_embeddings(tokens, ["here", "here", "here"])) == {"here"}


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"normalize_to_scale": -1.0}, "normalize_to_scale is -1"),
        ({"clip_counts": -1.0}, "clip_counts is -1"),
        ({"clip_counts": 0.0}, "clip_counts is 0"),
        ({"sort_genes": True, "randomize_genes": True}, "two orders"),
        ({"min_expressed_genes": -2}, "at least 0"),
    ],
)
def test_readings_that_mean_nothing_are_refused(options: dict[str, Any], said: str, tf: Any, cells: AnnData) -> None:
    with pytest.raises(ModelError, match=said):
        sl.embed(cells, tf, options=options, progress=False)


def test_orders_drawn_with_two_seeds_are_two_rules(tf: Any, cells: AnnData) -> None:
    def embedded(key: str, seed: int) -> str:
        options = {"randomize_genes": True}
        result = sl.embed(cells, tf, options=options, seed=seed, key_added=key, progress=False)
        return str(result.provenance["rule"])

    first = embedded("A", 1)
    with pytest.warns(UserWarning, match="different rules"):
        second = embedded("B", 2)
    assert "seed 1" in first
    assert "seed 2" in second
    del cells.obsm["A"], cells.obsm["B"]
    plain = sl.embed(cells, tf, progress=False)
    assert "seed" not in plain.provenance["rule"]


def test_surgery_needs_something_to_be_done_with(tmp_path: Path, pbmc68k: AnnData) -> None:
    family = write_family("transcriptformer", tmp_path, pbmc68k)
    for kind in ("foo", "corrected"):
        with pytest.raises(ModelError, match="pretrained_embedding"):
            family.open(config={"surgery": kind})


@pytest.mark.parametrize("name", ["embed_dim", "model_dim", "gene_head_hidden_dim"])
def test_layers_of_absurd_width_are_refused_before_they_are_made(name: str, tmp_path: Path, pbmc68k: AnnData) -> None:
    family = write_family("transcriptformer", tmp_path, pbmc68k)
    path = family.path / "config.json"
    config = json.loads(path.read_text())
    config["model"]["model_config"][name] = 3_999_999_999
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"{name} = 3,999,999,999, the weights in"):
        family.open()


def test_depths_and_totals_that_are_none_are_refused(scf: Any, cells: AnnData) -> None:
    for kind in ("bulk", "singlecell"):
        with pytest.raises(ModelError, match="'garbage'"):
            sl.embed(cells, scf, options={"input_type": kind, "tgthighres": "garbage"}, progress=False)
    for totals, said in (
        (["a", "b", "c"], "holds no numbers"),
        ([5.0, 0.0, 7.0], "is 0.0 for cell"),
        ([5.0, np.inf, 7.0], "is inf"),
    ):
        cells.obs["total_counts"] = totals
        with pytest.raises(DataError, match=said):
            sl.embed(cells, scf, options={"pre_normalized": "A"}, progress=False)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("scfoundation", {"input_type": "bulk"}, "'bulk' scales to the median"),
        ("scbert", {"like_reference": True, "batch_size": 4}, "batch_size=4 stabilises"),
    ],
)
def test_cells_that_are_read_beside_others_cannot_be_changed_alone(
    name: str, options: dict[str, Any], said: str, every_opened: Callable[[str], Any], cells: AnnData
) -> None:
    model = every_opened(name)
    gene = str(model.vocabulary.symbols[20])
    with pytest.raises(ModelError, match=said):
        sl.perturb(cells, model, {gene: 0.0}, options=options, null=False, progress=False)
    if "attention" in model.spec.abilities:
        with pytest.raises(ModelError, match=said):
            gene_attention(cells, model, gene, options=options)
        # It is the others that matter: a cell has another vector where some are missing.
        whole, part = (model.encode(model.tokenize(some, options=options)).cell for some in (cells, cells[1:].copy()))
        assert not np.allclose(whole[1:], part, atol=1e-3)


# --- files ---------------------------------------------------------------------------------------


def test_scfoundation_without_its_cell_weights_opens_and_says_so_when_asked_for_cells(
    tmp_path: Path, cells: AnnData
) -> None:
    genes = sorted(cells.var_names[:200])
    path = writers_performer.write_scfoundation(tmp_path / "models" / "models.ckpt", genes, sets=("gene", "rde"))
    model = sl.load_model(path, device="cpu", precision="float32")
    with pytest.raises(ModelError, match=r"no weights 'cell'; it has gene, rde.*options=.*version"):
        sl.embed(cells, model, progress=False)
    assert np.isfinite(sl.embed(cells, model, options={"version": "rde"}, progress=False).vectors).all()
    assert np.isfinite(model.gene_expression(model.tokenize(cells), genes=np.array([0, 1]))).all()


def test_notes_beside_scfoundations_sets_are_passed_over_and_other_tensors_are_not(
    tmp_path: Path, cells: AnnData
) -> None:
    genes = sorted(cells.var_names[:200])

    def write(name: str, more: dict[str, Any]) -> Path:
        return writers_performer.write_scfoundation(
            tmp_path / name / "models" / "models.ckpt", genes, change=lambda c: c.update(more)
        )

    noted = sl.load_model(write("noted", {"epoch": 3, "note": "x", "losses": [0.5]}), device="cpu")
    assert list(noted.weights) == ["cell", "rde", "gene"]
    with pytest.raises(ModelError, match="should be sets"):
        sl.load_model(write("more", {"extra": {"weight": torch.zeros(2)}}), device="cpu")


@pytest.mark.parametrize(
    "copy", ["ema_model.encoder.norm.weight", "model.model.encoder.norm.weight", "encoder.norm.weight"]
)
def test_a_copy_of_a_tensor_takes_no_weights_place_in_scfoundation(copy: str, tmp_path: Path, cells: AnnData) -> None:
    def with_copy(content: dict[str, Any]) -> None:
        state = content["cell"]["state_dict"]
        state[copy] = torch.full_like(state["model.encoder.norm.weight"], 1000.0)

    path = writers_performer.write_scfoundation(
        tmp_path / "models" / "models.ckpt", sorted(cells.var_names[:50]), change=with_copy
    )
    with pytest.raises(ModelError, match=r"encoder\.norm\.weight"):
        sl.load_model(path, device="cpu")


def test_genes_in_front_that_leave_nothing_of_a_cell_are_refused(
    every_opened: Callable[[str], Any], cells: AnnData
) -> None:
    model = every_opened("geneformer_v2")
    tokens = model.tokenize(cells)
    room = model.spec.max_length
    for many in (room - 3, room - 1, room + 5):
        with pytest.raises(DataError, match=f"{many:,} genes put in front leave nothing"):
            overexpressed(tokens, np.arange(many) + 10, (2, 3), max_length=room)


def test_a_head_of_its_own_is_not_taken_for_one_that_shares_the_embedding(tmp_path: Path, pbmc68k: AnnData) -> None:
    key = "cls.predictions.decoder.weight"

    def with_head(tensors: dict[str, torch.Tensor], add: float) -> dict[str, torch.Tensor]:
        return tensors | {key: tensors["bert.embeddings.word_embeddings.weight"] + add}

    for tied, add, read in ((False, 1.0, False), (False, 0.0, True), (True, 1.0, True)):
        folder = writers.write_geneformer(
            tmp_path / f"{tied}{add}", pbmc68k, change=lambda t, add=add: with_head(t, add), tie_word_embeddings=tied
        )
        model = sl.load_model(folder, device="cpu", precision="float32")
        states = np.zeros((2, model.spec.width), np.float32)
        if read:
            assert np.isfinite(model.gene_logits(states)).all()
        else:
            with pytest.raises(ModelError, match="weights of its own"):
                model.gene_logits(states)
