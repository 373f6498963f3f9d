"""Least squares on the surviving weights: every row has its own support, all rows are solved at once.

For a row w of the dense weight and its support K (what the mask leaves), minimise the damped layer error

    (w - w')(H + λI)(w - w')ᵀ   over w' that is zero outside K,      λ = percdamp·mean(diag H),

by conjugate gradients on the normal equations restricted to K, preconditioned by their diagonal. One iteration is one
matrix product [rows, width]·[width, width]; nothing is factored, although every row has another system.
"""

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.finite import not_finite

ROWS = 256
"""Solved together on a CPU: enough for a fast matrix product, few enough for a cache to hold what an iteration touches."""


def damped(hessian: Tensor, percdamp: float) -> Tensor:
    """H + λI. The damping keeps survivors near their dense values where the calibration inputs say little."""
    check_hessian(hessian)
    result = hessian.clone()
    result.diagonal().add_(max(percdamp * float(hessian.diagonal().mean()), torch.finfo(hessian.dtype).tiny))
    return result


def check_hessian(hessian: Tensor) -> None:
    """Refuse a Hessian with which nothing can be solved, whatever the damping."""
    if kind := not_finite(hessian):
        raise UserError(f"the Hessian is not finite: the statistics of the calibration inputs hold {kind}")
    if not torch.isfinite(hessian.diagonal().mean()):
        largest = float(hessian.diagonal().max())
        raise UserError(f"the Hessian overflows fp32, with {largest:.3g} on its diagonal: the calibration inputs are too large")


def row_error(dense: Tensor, current: Tensor, hessian: Tensor) -> Tensor:
    """(w - w')H(w - w')ᵀ of every row [rows]."""
    change = dense - current
    return ((change @ hessian) * change).sum(dim=1)


def solve(
    dense: Tensor,
    hessian: Tensor,
    mask: Tensor,
    start: Tensor | None = None,
    iterations: int = 20,
    tolerance: float = 1e-4,
) -> Tensor:
    """The weights [rows, width] that minimise every row's error on its support; `mask` is True where pruned.

    `hessian` is damped already. `start` is where to begin (default: the dense values of the survivors); the error of a row
    never rises from there. Ends early when every row's residual has fallen to `tolerance` of its right-hand side.
    """
    size = ROWS if dense.device.type == "cpu" else len(dense)
    parts = [slice(first, first + size) for first in range(0, len(dense), size)]
    found = [_solve(dense[p], hessian, mask[p], None if start is None else start[p], iterations, tolerance) for p in parts]
    return torch.cat(found)


def _solve(dense: Tensor, hessian: Tensor, mask: Tensor, start: Tensor | None, iterations: int, tolerance: float) -> Tensor:
    keep = ~mask
    solution = dense * keep if start is None else start * keep
    residual = ((dense - solution) @ hessian).mul_(keep)
    inverse = hessian.diagonal().reciprocal()
    scaled = residual * inverse
    direction = scaled.clone()
    energy = (residual * scaled).sum(dim=1, keepdim=True)
    goal = energy * tolerance**2 if start is None else row_goal(dense, hessian, inverse, tolerance)
    for _ in range(iterations):
        active = energy > goal
        if not active.any():
            break
        along = (direction @ hessian).mul_(keep)
        curvature = (direction * along).sum(dim=1, keepdim=True)
        step = torch.where(active & (curvature > 0), energy / curvature.clamp(min=torch.finfo(energy.dtype).tiny), 0)
        solution.addcmul_(step.expand_as(direction), direction)
        residual.addcmul_(step.expand_as(along), along, value=-1)
        torch.mul(residual, inverse, out=scaled)
        former, energy = energy, (residual * scaled).sum(dim=1, keepdim=True)
        direction.mul_(torch.where(active, energy / former.clamp(min=torch.finfo(energy.dtype).tiny), 0)).add_(scaled)
    return solution


def row_goal(dense: Tensor, hessian: Tensor, inverse: Tensor, tolerance: float) -> Tensor:
    """The energy at which a warm start counts as solved: `tolerance`² of that of a start from nothing."""
    right = dense @ hessian
    return (right.square() * inverse).sum(dim=1, keepdim=True) * tolerance**2
