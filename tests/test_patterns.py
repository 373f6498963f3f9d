"""Selection rules against a plain stable sort, on random scores with many ties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import UserError
from secateur.patterns import layer_threshold, lowest_per_row, n_of_m, parse_pattern, row_k


@st.composite
def score_matrices(draw: st.DrawFn) -> Tensor:
    """Small matrices whose entries come from few values, so that ties are the rule."""
    rows, groups = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    values = draw(st.lists(st.integers(0, 5), min_size=rows * groups * 4, max_size=rows * groups * 4))
    return torch.tensor(values, dtype=torch.float32).reshape(rows, groups * 4)


def sorted_mask(scores: Tensor, k: int) -> Tensor:
    """The rule as methods state it: a stable ascending sort of every row, the first k go."""
    order = scores.argsort(dim=1, stable=True)[:, :k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order, True)


@given(score_matrices(), st.integers(0, 24))
def test_lowest_per_row_is_a_stable_sort(scores: Tensor, k: int) -> None:
    k = min(k, scores.shape[1])
    assert torch.equal(lowest_per_row(scores, k), sorted_mask(scores, k))


@given(score_matrices(), st.sampled_from([0.0, 0.25, 0.29, 0.5, 0.7, 0.99]))
def test_row_k_truncates_the_product(scores: Tensor, sparsity: float) -> None:
    mask = row_k(scores, sparsity)
    assert mask.sum(dim=1).eq(int(scores.shape[1] * sparsity)).all()


@given(score_matrices(), st.sampled_from([0.25, 0.5, 0.75, 0.9]))
def test_layer_threshold_counts(scores: Tensor, sparsity: float) -> None:
    k = int(scores.numel() * sparsity)
    threshold = scores.flatten().sort().values[k]
    reference, exact = layer_threshold(scores, sparsity), layer_threshold(scores, sparsity, "exact")
    assert torch.equal(reference, scores <= threshold) and int(reference.sum()) > k
    assert torch.equal(exact, sorted_mask(scores.reshape(1, -1), k).reshape(scores.shape))
    assert not (exact & ~reference).any()


def test_sparsity_zero_prunes_nothing() -> None:
    scores = torch.zeros(2, 4)
    assert not layer_threshold(scores, 0.0).any() and not row_k(scores, 0.0).any()


@given(score_matrices(), st.sampled_from([(1, 4), (2, 4), (3, 4), (1, 2)]))
def test_n_of_m_is_a_stable_sort_of_every_group(scores: Tensor, pattern: tuple[int, int]) -> None:
    n, m = pattern
    mask = n_of_m(scores, n, m)
    assert torch.equal(mask, sorted_mask(scores.reshape(-1, m), n).reshape(scores.shape))


def test_a_width_that_m_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="2:4: the layer's 6 inputs are not divisible by 4"):
        n_of_m(torch.zeros(1, 6), 2, 4)


@pytest.mark.parametrize("text", ["4:2", "0:4", "4:4", "2-4", "", "2:4:8"])
def test_bad_patterns_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be 'unstructured' or 'n:m'"):
        parse_pattern(text)
