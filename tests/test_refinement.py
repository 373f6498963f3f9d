"""Least squares, mask refinements and ALPS: against brute force, and what each of them promises."""

from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur import least_squares
from secateur.errors import UserError
from secateur.least_squares import damped, row_error, solve
from secateur.methods.alps import ALPS
from secateur.methods.base import Pruned, Target
from secateur.methods.wanda import Wanda
from secateur.patterns import is_n_of_m, parse_pattern
from secateur.recovery.lsq import LeastSquares
from secateur.refinement import REFINEMENTS
from secateur.refinement.reselect import Reselect
from secateur.refinement.swaps import Swaps
from secateur.statistics import SiteAccumulator, SiteStatistics

PATTERNS = ["unstructured", "2:4", "1:4"]


def problem(seed: int, rows: int = 7, width: int = 16, tokens: int = 40) -> tuple[Tensor, SiteStatistics]:
    """A weight and the statistics of correlated inputs with a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    inputs = torch.randn(4, tokens, width, generator=generator) @ mix + torch.randn(width, generator=generator)
    sums = SiteAccumulator(width, "gram", torch.device("cpu"))
    sums.update(inputs)
    return torch.randn(rows, width, generator=generator), sums.finish()


def masked(weight: Tensor, statistics: SiteStatistics, pattern: str = "unstructured") -> tuple[Pruned, Target]:
    group = parse_pattern(pattern)
    target = Target(group[0] / group[1] if group else 0.5, pattern)
    return Wanda().prune([weight], statistics, [target])[0], target


def test_least_squares_is_the_optimum_on_every_rows_support() -> None:
    weight, statistics = problem(0)
    mask = masked(weight, statistics)[0].mask
    hessian = damped(statistics.hessian, 0.01)
    found = solve(weight, hessian, mask, iterations=200, tolerance=1e-7)
    for row, keep in enumerate(~mask):
        exact = torch.linalg.solve(hessian[keep][:, keep].double(), (hessian.double() @ weight[row].double())[keep])
        torch.testing.assert_close(found[row, keep].double(), exact, rtol=1e-3, atol=1e-4)
    assert not found[mask].any()


@given(st.integers(0, 10_000), st.integers(1, 25))
@settings(deadline=None, max_examples=25)
def test_every_iteration_of_least_squares_helps(seed: int, iterations: int) -> None:
    weight, statistics = problem(seed)
    mask = masked(weight, statistics)[0].mask
    hessian = damped(statistics.hessian, 0.01)
    before, after = weight * ~mask, solve(weight, hessian, mask, iterations=iterations)
    slack = 1e-4 * row_error(weight, torch.zeros_like(weight), hessian)
    assert (row_error(weight, after, hessian) <= row_error(weight, before, hessian) + slack).all()
    again = solve(weight, hessian, mask, start=after, iterations=iterations)
    assert (row_error(weight, again, hessian) <= row_error(weight, after, hessian) + slack).all()


def test_least_squares_beats_the_sweep_it_replaces() -> None:
    from secateur.recovery.obs import OptimalBrainSurgeon

    weight, statistics = problem(1, rows=64)
    start = [masked(weight, statistics)[0]]
    errors = []
    for update in (LeastSquares(), OptimalBrainSurgeon()):
        (found,) = update.update([weight], statistics, start)
        assert found.weight is not None
        errors.append(float(row_error(weight, found.weight, statistics.hessian).sum()))
    assert errors[0] < errors[1] < float(row_error(weight, weight * ~start[0].mask, statistics.hessian).sum())


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", ["dsnot", "none", "reselect", "swaps"])
def test_a_refinement_keeps_the_number_of_zeros(name: str, pattern: str) -> None:
    weight, statistics = problem(2, rows=32)
    start, target = masked(weight, statistics, pattern)
    refinement = REFINEMENTS.get(name)()
    (found,) = refinement.refine([weight], statistics, [start], [target])
    assert torch.equal(found.mask.sum(dim=1), start.mask.sum(dim=1))
    assert (name == "none") == torch.equal(found.mask, start.mask)
    if group := parse_pattern(pattern):
        assert is_n_of_m(found.mask, *group)


@given(st.integers(0, 10_000), st.sampled_from(PATTERNS))
@settings(deadline=None, max_examples=25)
def test_swaps_and_reselect_never_raise_a_rows_error(seed: int, pattern: str) -> None:
    weight, statistics = problem(seed)
    start, target = masked(weight, statistics, pattern)
    (swapped,) = Swaps().refine([weight], statistics, [start], [target])
    plain = statistics.hessian
    before = row_error(weight, weight * ~start.mask, plain)
    assert (row_error(weight, weight * ~swapped.mask, plain) <= before * (1 + 1e-4)).all()
    fit = Reselect(iterations=50)
    errors = []
    for rounds in range(4):
        (found,) = Reselect(rounds, fit.percdamp, fit.iterations).refine([weight], statistics, [start], [target])
        assert found.weight is not None
        assert not found.weight[found.mask].any()
        errors.append(row_error(weight, found.weight, damped(plain, fit.percdamp)))
    for earlier, later in pairwise(errors):
        assert (later <= earlier * (1 + 1e-3)).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_swaps_end_where_no_exchange_helps(pattern: str) -> None:
    weight, statistics = problem(3, rows=5, width=8)
    start, target = masked(weight, statistics, pattern)
    (found,) = Swaps(steps=1000, candidates=8).refine([weight], statistics, [start], [target])
    hessian, size = statistics.hessian, (parse_pattern(pattern) or (0, 8))[1]
    for row in range(5):
        error = float(row_error(weight[row : row + 1], weight[row : row + 1] * ~found.mask[row], hessian))
        pruned, kept = found.mask[row].nonzero().flatten().tolist(), (~found.mask[row]).nonzero().flatten().tolist()
        for back, drop in product(pruned, kept):
            if back // size == drop // size:
                mask = found.mask[row].clone()
                mask[back], mask[drop] = False, True
                other = float(row_error(weight[row : row + 1], weight[row : row + 1] * ~mask, hessian))
                assert other >= error * (1 - 1e-4), "an exchange would still help"


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=25)
def test_reselect_by_layer_moves_zeros_between_rows_and_never_raises_the_layers_error(seed: int) -> None:
    weight, statistics = problem(seed, rows=24)
    weight[:4] *= 5  # rows that deserve more survivors than others
    start, target = masked(weight, statistics)
    hessian, errors = damped(statistics.hessian, 0.01), []
    for rounds in range(4):
        (found,) = Reselect(rounds, iterations=50, scope="layer").refine([weight], statistics, [start], [target])
        assert found.weight is not None and not found.weight[found.mask].any()
        assert found.mask.sum() == start.mask.sum()
        errors.append(float(row_error(weight, found.weight, hessian).sum()))
    assert all(later <= earlier * (1 + 1e-3) for earlier, later in pairwise(errors))
    assert found.mask[:4].float().mean() < 0.5 < found.mask[4:].float().mean()
    (rows,) = Reselect(3, iterations=50).refine([weight], statistics, [start], [target])
    assert rows.weight is not None
    assert errors[-1] < float(row_error(weight, rows.weight, hessian).sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": -1}, "reselect rounds -1, iterations 20: must be at least 0 and 1"),
        ({"iterations": 0}, "reselect rounds 3, iterations 0: must be at least 0 and 1"),
        ({"percdamp": 0.0}, "reselect percdamp 0.0: must be above 0"),
        ({"scope": "rows"}, "unknown reselect scope 'rows'; did you mean row"),
    ],
)
def test_bad_options_of_reselect_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Reselect(**options)


def test_rows_solved_in_batches_are_the_rows_solved_together(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, statistics = problem(6, rows=29)
    mask, hessian = masked(weight, statistics)[0].mask, damped(statistics.hessian, 0.01)
    for start in (None, torch.randn(29, 16, generator=torch.Generator().manual_seed(0))):
        whole = solve(weight, hessian, mask, start)
        monkeypatch.setattr(least_squares, "ROWS", 8)
        torch.testing.assert_close(solve(weight, hessian, mask, start), whole)
        monkeypatch.undo()


def test_dsnot_brings_the_mean_error_down() -> None:
    weight, statistics = problem(4, rows=64)
    start, target = masked(weight, statistics)
    (found,) = REFINEMENTS.get("dsnot")().refine([weight], statistics, [start], [target])
    assert statistics.input_sum is not None
    mean = statistics.input_sum / statistics.tokens
    before, after = ((weight * mask) @ mean for mask in (start.mask, found.mask))
    assert (after.abs() <= before.abs() + 1e-4).all()
    assert after.abs().sum() < 0.5 * before.abs().sum()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_alps_beats_the_fitted_wanda_mask(pattern: str) -> None:
    weight, statistics = problem(5, rows=64, width=32, tokens=200)
    start, target = masked(weight, statistics, pattern)
    (fitted,) = LeastSquares().update([weight], statistics, [start])
    (found,) = ALPS().prune([weight], statistics, [Target(target.sparsity, pattern, "exact")])
    assert found.weight is not None and fitted.weight is not None
    hessian = damped(statistics.hessian, 0.01)
    assert row_error(weight, found.weight, hessian).sum() < row_error(weight, fitted.weight, hessian).sum()
    if group := parse_pattern(pattern):
        assert is_n_of_m(found.mask, *group)
    else:
        assert int(found.mask.sum()) == weight.numel() // 2


def test_a_hessian_that_is_not_finite_is_refused() -> None:
    weight, statistics = problem(6)
    assert statistics.gram is not None
    statistics.gram[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        LeastSquares().update([weight], statistics, [masked(*problem(6))[0]])
