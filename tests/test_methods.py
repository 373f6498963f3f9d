"""Properties of the methods that no single worked example shows."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import UserError
from secateur.methods.base import Method, Pruned, Target
from secateur.methods.magnitude import Magnitude
from secateur.methods.sparsegpt import SparseGPT
from secateur.methods.wanda import Wanda
from secateur.patterns import layer_threshold, n_of_m, parse_pattern
from secateur.recovery.obs import OptimalBrainSurgeon
from secateur.statistics import SiteAccumulator, SiteStatistics
from secateur.sweep import Factor, sweep

TARGETS = [Target(0.5), Target(0.3, count="exact"), Target(0.5, "2:4"), Target(0.75, "3:4"), Target(0.5, "4:8"), Target(0.0)]
identifier = str


def layer(seed: int, rows: int = 24, width: int = 160, samples: int = 8) -> tuple[Tensor, SiteStatistics, Tensor]:
    """A weight, the statistics of correlated inputs, and those inputs as [tokens, width]."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator) / math.sqrt(width) + torch.eye(width)
    inputs = torch.randn(samples, 64, width, generator=generator) @ mix
    accumulator = SiteAccumulator(width, "gram", torch.device("cpu"))
    accumulator.update(inputs)
    return torch.randn(rows, width, generator=generator), accumulator.finish(), inputs.reshape(-1, width)


def textbook(
    weight: Tensor, hessian: Tensor, target: Target, blocksize: int, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """SparseGPT as its paper writes it, one column at a time in fp64: an independent second implementation. `scale` [width]
    takes the place of 1 / U_jj."""
    work, hessian = weight.double().clone(), hessian.double().clone()
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    scale = 1 / upper.diagonal() if scale is None else scale.double()
    mask = torch.zeros_like(work, dtype=torch.bool)
    group = parse_pattern(target.pattern)
    for start in range(0, work.shape[1], blocksize):
        stop = min(start + blocksize, work.shape[1])
        if not group:
            scores = (work[:, start:stop] * scale[start:stop]) ** 2
            mask[:, start:stop] = layer_threshold(scores, target.sparsity, target.count)
        for column in range(start, stop):
            if group and column % group[1] == 0:
                columns = slice(column, column + group[1])
                mask[:, columns] = n_of_m((work[:, columns] * scale[columns]) ** 2, *group)
            error = work[:, column] * mask[:, column] / upper[column, column]
            work[:, column:] -= torch.outer(error, upper[column, column:])
    return mask, work.masked_fill(mask, 0)


@pytest.mark.parametrize("target", TARGETS, ids=identifier)
@pytest.mark.parametrize("blocksize", [128, 32])
def test_the_sweep_is_the_papers_column_loop(target: Target, blocksize: int) -> None:
    weight, statistics, _ = layer(0)
    pruned = SparseGPT(blocksize=blocksize).prune([weight], statistics, [target])[0]
    mask, expected = textbook(weight, statistics.hessian, target, blocksize)
    assert pruned.weight is not None
    assert torch.equal(pruned.mask, mask)
    torch.testing.assert_close(pruned.weight.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=identifier)
@pytest.mark.parametrize("score", ["magnitude", "wanda"])
def test_iterative_masks_are_chosen_from_compensated_weights(target: Target, score: Any) -> None:
    """The ablations `magnitude_iter` and `wanda_iter`."""
    weight, statistics, _ = layer(3)
    pruned = SparseGPT(score=score).prune([weight], statistics, [target])[0]
    scale = statistics.input_energy.sqrt() if score == "wanda" else torch.ones(weight.shape[1])
    mask, expected = textbook(weight, statistics.hessian, target, 128, scale)
    assert pruned.weight is not None
    assert torch.equal(pruned.mask, mask)
    torch.testing.assert_close(pruned.weight.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=identifier)
@pytest.mark.parametrize("method", [SparseGPT(), Wanda(), Magnitude()], ids=identifier)
def test_linears_of_a_site_do_not_touch_each_other(method: Method, target: Target) -> None:
    weight, statistics, _ = layer(1)
    parts = [weight[:5], weight[5:16], weight[16:]]
    together = method.prune(parts, statistics, [target] * 3)
    for part, result in zip(parts, together, strict=True):
        alone = method.prune([part], statistics, [target])[0]
        assert torch.equal(result.mask, alone.mask)
        if result.weight is not None and alone.weight is not None:
            torch.testing.assert_close(result.weight, alone.weight)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.3, 0.5, 0.7]))
def test_compensation_lowers_the_layers_error(seed: int, sparsity: float) -> None:
    weight, statistics, inputs = layer(seed)
    mask = Wanda().prune([weight], statistics, [Target(sparsity)])[0].mask
    updated = OptimalBrainSurgeon().update([weight], statistics, [Pruned(mask)])[0].weight
    assert updated is not None and not updated[mask].any()
    zeroed = (inputs @ (weight * mask).T).square().sum()
    assert (inputs @ (weight - updated).T).square().sum() < zeroed


def test_the_sweep_with_its_own_mask_given_is_sparsegpt() -> None:
    weight, statistics, _ = layer(2)
    own = SparseGPT().prune([weight], statistics, [Target(0.5)])[0]
    given_mask = OptimalBrainSurgeon().update([weight], statistics, [Pruned(own.mask)])[0]
    assert own.weight is not None and given_mask.weight is not None
    torch.testing.assert_close(given_mask.weight, own.weight)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_wanda_does_not_depend_on_the_scale_of_the_inputs(seed: int, scale: float) -> None:
    weight, statistics, _ = layer(seed, rows=4, width=16, samples=2)
    assert statistics.input_square_sum is not None
    scaled = SiteStatistics(statistics.sequences, statistics.tokens, statistics.input_sum, statistics.input_square_sum * scale)
    one, other = (Wanda().score(weight, known) for known in (statistics, scaled))
    torch.testing.assert_close(one / one.max(), other / other.max())


def test_dead_inputs_go_first_and_cost_nothing() -> None:
    weight, statistics, _ = layer(3)
    assert statistics.gram is not None and statistics.input_square_sum is not None
    gram, squares = statistics.gram.clone(), statistics.input_square_sum.clone()
    gram[7], gram[:, 7], squares[7] = 0, 0, 0
    known = SiteStatistics(statistics.sequences, statistics.tokens, statistics.input_sum, squares, gram)
    for method in (Wanda(), SparseGPT()):
        assert method.prune([weight], known, [Target(0.3)])[0].mask[:, 7].all()
    factor = Factor.of(known.hessian, 0.01)
    assert factor.dead.nonzero().flatten().tolist() == [7]


def test_a_hessian_that_is_not_positive_definite_is_refused_after_raising_the_damping() -> None:
    with pytest.raises(UserError, match="not positive definite even with"):
        Factor.of(torch.diag(torch.tensor([1.0, -1e9, 1.0])), 0.01)


def test_numbers_that_are_not_finite_are_named() -> None:
    weight, statistics, _ = layer(4)
    weight[0, 0] = float("nan")
    for method in (Magnitude(), Wanda(), SparseGPT()):
        with pytest.raises(UserError, match="not finite"):
            method.prune([weight], statistics, [Target(0.5)])


def test_a_rank_deficient_hessian_is_damped_not_refused() -> None:
    inputs = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(5))
    accumulator = SiteAccumulator(32, "gram", torch.device("cpu"))
    accumulator.update(inputs)
    found = sweep([torch.randn(4, 32)], Factor.of(accumulator.finish().hessian, 0.01), 128, targets=[Target(0.5)])
    assert found.pruned[0].weight is not None and torch.isfinite(found.pruned[0].weight).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percdamp": 0.0}, "percdamp 0.0: must be above 0"),
        ({"blocksize": 0}, "blocksize 0: must be at least 1"),
        ({"score": "wand"}, "unknown sparsegpt score 'wand'; did you mean wanda"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SparseGPT(**options)
