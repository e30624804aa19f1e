"""What accelerators compute for all cells at once is what is computed for one cell after the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scfm_lab.models import ragged
from scfm_lab.models.layers import explicit_attention, packed_attention
from scfm_lab.models.scfoundation_net import _pool_at_once, pool
from scfm_lab.models.transcriptformer_net import one_by_one, padded
from scfm_lab.models.transcriptformer_run import Sequences

LENGTHS = np.array([3, 7, 7, 1, 12])


def _drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("asked", [LENGTHS, np.ones(5, np.int64), np.array([2, 1, 3, 1, 5])])
@pytest.mark.parametrize("attend", [explicit_attention, torch.nn.functional.scaled_dot_product_attention])
def test_padded_attention_reads_no_padding(asked: np.ndarray, attend: object) -> None:
    key, value = _drawn(int(LENGTHS.sum()), 2, 4), _drawn(int(LENGTHS.sum()), 2, 4) + 1
    query = _drawn(int(asked.sum()), 2, 4) * 3
    wanted = packed_attention(query, key, value, LENGTHS, query_lengths=asked, scale=0.7)
    found = ragged.padded(query, key, value, LENGTHS, asked, scale=0.7, attend=attend)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("visible", [None, "some"])
@pytest.mark.parametrize("on_diagonal", [True, False])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_capped_attention_of_padded_cells_is_that_of_each(
    dtype: torch.dtype, atol: float, on_diagonal: bool, visible: str | None
) -> None:
    lengths = np.array([5, 150, 1, 129])
    q, k, v = (_drawn(int(lengths.sum()), 2, 8) + shift for shift in (0.0, 0.1, 0.2))
    bias = _drawn(int(lengths.sum())).abs() * 4
    seen = None if visible is None else _drawn(int(lengths.sum()), 1)[:, 0] > -0.5
    with torch.no_grad():
        wanted = one_by_one(q, k, v, bias, lengths, 10.0, seen, on_diagonal)
        found = padded(*(x.to(dtype) for x in (q, k, v)), bias, lengths, 10.0, seen, on_diagonal)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), wanted, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", ["sum", "mean", "max"])
def test_reduces_each_cell_by_itself(kind: str) -> None:
    states = _drawn(int(LENGTHS.sum()), 5)
    parts = [{"sum": x.sum(0), "mean": x.mean(0), "max": x.amax(0)}[kind] for x in states.split(LENGTHS.tolist())]
    torch.testing.assert_close(ragged.reduce(kind, states, LENGTHS), torch.stack(parts))
    if kind == "mean":  # what fine-tuning takes gradients of
        given = states.requires_grad_()
        ragged.reduce(kind, given, LENGTHS).square().sum().backward()
        wanted = torch.cat([2 * x.expand(n, -1) / n for x, n in zip(parts, LENGTHS.tolist(), strict=True)])
        torch.testing.assert_close(given.grad, wanted)


@pytest.mark.parametrize("pooling", ["all", "max", "mean"])
def test_scfoundation_pools_at_once_as_one_by_one(pooling: str) -> None:
    lengths = LENGTHS + 2
    states = _drawn(int(lengths.sum()), 4)
    torch.testing.assert_close(_pool_at_once(states, lengths, pooling), pool(states, lengths, pooling))


def test_transcriptformer_sums_at_once_as_one_by_one() -> None:
    states = _drawn(int(LENGTHS.sum()), 4)
    first = np.cumsum(LENGTHS) - LENGTHS + np.array([1, 0, 2, 0, 1])
    seq = Sequences(states, states[:, 0], LENGTHS, first, None, states[:, 0] > 0, LENGTHS)
    torch.testing.assert_close(seq._sums_at_once(states), seq.sums(states))


def test_tables_of_a_batch_are_made_once() -> None:
    device = torch.device("cpu")
    with torch.inference_mode():
        once, again = ragged.ends(LENGTHS, device), ragged.ends(LENGTHS.copy(), device)
    assert once is again
    assert not once.is_inference()
    assert once.tolist() == [0, *np.cumsum(LENGTHS).tolist()]
    assert ragged.ends(LENGTHS[1:], device).tolist() == [0, *np.cumsum(LENGTHS[1:]).tolist()]
