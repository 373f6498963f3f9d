"""Choose again which weights stay, by what each is worth after the survivors have been fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.least_squares import damped, row_error, solve
from secateur.methods.base import Pruned, Target
from secateur.patterns import lowest_by_count, n_of_m, parse_pattern
from secateur.refinement.base import Refinement
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class Reselect(Refinement):
    """Fit the survivors by least squares; give every weight of a row its worth in the row's quadratic error; keep the worthiest.

    A pruned weight is worth r_j²/H_jj, r = (w - w')H: what letting it alone move would win. A kept one is worth w'_j²·H_jj:
    the least that dropping it could cost. Then fit again, for at most `rounds` rounds. A row takes its new support only if
    its error is smaller there, so the layer error never rises. Ours.
    """

    rounds: int = 3
    percdamp: float = 0.01
    iterations: int = 20

    needs: ClassVar[str] = "gram"
    updates_weights: ClassVar[bool] = True

    def refine(
        self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned], targets: Sequence[Target]
    ) -> list[Pruned]:
        """All linears of the site share the damped Hessian."""
        hessian = damped(statistics.hessian, self.percdamp)
        return [
            self.linear(weight.float(), hessian, result, target.pattern)
            for weight, result, target in zip(weights, pruned, targets, strict=True)
        ]

    def linear(self, dense: Tensor, hessian: Tensor, pruned: Pruned, pattern: str) -> Pruned:
        """The rounds for one linear; every row keeps its number of zeros, every group of an n:m pattern its n."""
        group, diagonal = parse_pattern(pattern), hessian.diagonal()
        mask = pruned.mask
        zeros = mask.sum(dim=1)
        fitted = solve(dense, hessian, mask, pruned.weight, self.iterations)
        error = row_error(dense, fitted, hessian)
        for _ in range(self.rounds):
            gain = ((dense - fitted) @ hessian).square_() / diagonal
            worth = torch.where(mask, gain, fitted.square() * diagonal)
            chosen = n_of_m(worth, *group) if group else lowest_by_count(worth, zeros)
            if torch.equal(chosen, mask):
                break
            candidate = solve(dense, hessian, chosen, fitted, self.iterations)
            candidate_error = row_error(dense, candidate, hessian)
            better = candidate_error < error
            if not better.any():
                break
            mask = torch.where(better[:, None], chosen, mask)
            fitted = torch.where(better[:, None], candidate, fitted)
            error = torch.where(better, candidate_error, error)
        return Pruned(mask, fitted)
