"""The sweep of SparseGPT: prune, or only compensate, column by column, for all linears that share an input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.finite import not_finite
from secateur.least_squares import check_hessian
from secateur.methods.base import Pruned, Target
from secateur.patterns import layer_threshold, n_of_m, parse_pattern


@dataclass(frozen=True)
class Factor:
    """`upper` [width, width] with UᵀU = (H + λI)⁻¹, and which inputs were `dead` (never active)."""

    upper: Tensor
    dead: Tensor

    @staticmethod
    def of(hessian: Tensor, percdamp: float) -> "Factor":
        """Factor the inverse of the damped Hessian in fp32. If it is not positive definite, λ grows tenfold up to a
        millionfold; then a `UserError` says so."""
        hessian = hessian.clone()
        diagonal = hessian.diagonal()
        check_hessian(hessian)
        dead = diagonal == 0
        diagonal[dead] = 1
        damping = percdamp * float(diagonal.mean())
        added = 0.0
        for exponent in range(7):
            diagonal += damping * 10**exponent - added
            added = damping * 10**exponent
            # H = R·Rᵀ with R upper triangular is the ordinary Cholesky factorisation read from the last row and column
            # backwards, and U = R⁻¹: a third of the work of inverting H and factoring the inverse, and more accurate.
            lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
            if not failed:
                return Factor(_inverse(lower.flip(0, 1)), dead)
        raise UserError(
            f"the Hessian is not positive definite even with {added:g} added to its diagonal: use more calibration samples, "
            f"or raise percdamp {percdamp:g}"
        )


def _inverse(upper: Tensor) -> Tensor:
    """Inverse of an upper triangular matrix by halves, [[A, B], [0, C]]⁻¹ = [[A⁻¹, -A⁻¹BC⁻¹], [0, C⁻¹]]: a third of the
    multiplications of solving for the identity, nearly all of them in large products."""
    if len(upper) <= 128:
        return torch.linalg.solve_triangular(upper, torch.eye(len(upper), device=upper.device), upper=True)
    half = len(upper) // 2
    inverse = torch.zeros_like(upper)
    inverse[:half, :half], inverse[half:, half:] = _inverse(upper[:half, :half]), _inverse(upper[half:, half:])
    inverse[:half, half:] = inverse[:half, :half] @ upper[:half, half:] @ -inverse[half:, half:]
    return inverse


@dataclass(frozen=True)
class Sweep:
    """What `sweep` found: `pruned` per linear, `row_loss` = ½ Σ_j e_j² per stacked row (the expected squared output error in
    units of H), `scores` [rows, width] of each weight when its mask was decided (None if the mask was given)."""

    pruned: list[Pruned]
    row_loss: Tensor
    scores: Tensor | None


Score = Callable[[Tensor, Tensor, slice], Tensor]
"""(compensated weights [columns, rows], pivots U_jj [columns], which columns) → scores [columns, rows]; low ones go first."""


def surgeon_score(weights: Tensor, pivots: Tensor, columns: slice) -> Tensor:
    """SparseGPT's w² / U_jj²."""
    return (weights / pivots[:, None]).square()


def sweep(
    weights: Sequence[Tensor],
    factor: Factor,
    blocksize: int,
    targets: Sequence[Target] | None = None,
    masks: Sequence[Tensor] | None = None,
    score: Score = surgeon_score,
) -> Sweep:
    """Prune to `targets` by `score`, or only compensate for given `masks`. Weights [out, width] share their input and are swept
    together.

    The textbook sweep writes every error into all columns to its right at once. Here a column collects the errors of the
    columns to its left just before it is read, w_j - Σ_i<j e_i·U_ij: the same numbers with a fraction of the memory traffic.
    Everything is kept transposed, [width, rows], so that a column of the paper is contiguous.
    """
    goals = list(targets or [])
    if bool(goals) == bool(masks):
        raise ValueError("give either targets or masks")
    rows = [len(weight) for weight in weights]
    work = torch.cat([weight.float() for weight in weights]).T.contiguous()
    work[factor.dead] = 0
    pattern = parse_pattern(goals[0].pattern) if goals else None
    width, piece = len(work), pattern[1] if pattern else 32
    if pattern and (width % pattern[1] or blocksize % pattern[1]):
        raise UserError(f"pattern {goals[0].pattern}: must divide the {width} inputs and the block size {blocksize}")
    mask = torch.cat(list(masks)).T.contiguous() if masks else torch.zeros_like(work, dtype=torch.bool)
    scores = torch.zeros_like(work)
    upper, pivots = factor.upper, factor.upper.diagonal()
    errors = torch.zeros_like(work)

    for start in range(0, width, blocksize):
        block = slice(start, min(start + blocksize, width))
        if goals and not pattern:
            scores[block] = score(work[block], pivots[block], block)
            linears = scores[block].split(rows, dim=1)
            chosen = [layer_threshold(part.T, t.sparsity, t.count).T for part, t in zip(linears, goals, strict=True)]
            mask[block] = torch.cat(chosen, dim=1)
        for first in range(block.start, block.stop, piece):
            part = slice(first, min(first + piece, block.stop))
            work[part].addmm_(upper[block.start : first, part].T, errors[block.start : first], alpha=-1)
            if pattern:
                scores[part] = score(work[part], pivots[part], part)
                mask[part] = n_of_m(scores[part].T, *pattern).T
            # The errors of columns still to come are zero, so every column may read those of the whole piece.
            given, share = errors[part].T, mask[part] / pivots[part, None]
            columns = (work[part].unbind(), upper[part, part].T.contiguous().unbind(), share.unbind(), errors[part].unbind())
            for column, weight_of_errors, push, error in zip(*columns, strict=True):
                torch.mul(torch.addmv(column, given, weight_of_errors, alpha=-1), push, out=error)
            work[part].addmm_(upper[part, part].triu().T, errors[part], alpha=-1)
        work[block.stop :].addmm_(upper[block, block.stop :].T, errors[block], alpha=-1)

    work[mask] = 0
    if not_finite(work):
        raise UserError(_why(weights, factor))
    parts = zip(mask.T.split(rows), work.T.split(rows), strict=True)
    return Sweep(
        [Pruned(part.contiguous(), weight.contiguous()) for part, weight in parts],
        errors.square().sum(dim=0) / 2,
        scores.T if goals else None,
    )


def _why(weights: Sequence[Tensor], factor: Factor) -> str:
    """What is to blame for updated weights that are not finite."""
    if kind := next((kind for weight in weights if (kind := not_finite(weight))), None):
        return f"the weights are not finite before the update, they hold {kind}: fetch or make the model again"
    what = "the inverse of the Hessian is not finite" if not_finite(factor.upper) else "the updated weights are not finite"
    return f"{what}, although the weights and the Hessian are: raise percdamp or use more calibration samples"
