"""Choose again which weights stay, by what each is worth after the survivors have been fitted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from secateur.errors import UserError, unknown_name
from secateur.least_squares import damped, row_error, solve
from secateur.methods.base import Pruned, Target
from secateur.patterns import lowest_by_count, lowest_per_row, n_of_m, parse_pattern
from secateur.refinement.base import Refinement
from secateur.statistics import SiteStatistics

Scope = Literal["row", "layer"]


@dataclass(frozen=True)
class Reselect(Refinement):
    """Fit the survivors by least squares; give every weight of a row its worth in the row's quadratic error; keep the worthiest.

    A pruned weight is worth r_j²/H_jj, r = (w - w')H: what letting it alone move would win. A kept one is worth w'_j²·H_jj:
    what dropping it costs if nothing makes up for it. Then fit again, for at most `rounds` rounds. `scope` says whose worths
    are compared: those of a `row`, which then keeps its number of zeros, or of the whole `layer`, whose rows may end with
    different numbers (those of a group in an n:m pattern, always). A new support is taken only where the error of that row, or
    of the whole layer, is smaller: it never rises. Ours.
    """

    rounds: int = 3
    percdamp: float = 0.01
    iterations: int = 20
    scope: Scope = "row"

    needs: ClassVar[str] = "gram"
    updates_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rounds < 0 or self.iterations < 1:
            raise UserError(f"reselect rounds {self.rounds}, iterations {self.iterations}: must be at least 0 and 1")
        if not self.percdamp > 0:
            raise UserError(f"reselect percdamp {self.percdamp}: must be above 0")
        if self.scope not in get_args(Scope):
            raise unknown_name("reselect scope", self.scope, get_args(Scope))

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
        """The rounds for one linear; the row, or layer, keeps its number of zeros, every group of an n:m pattern its n."""
        group, diagonal = parse_pattern(pattern), hessian.diagonal()
        mask = pruned.mask
        fitted = solve(dense, hessian, mask, pruned.weight, self.iterations)
        error = row_error(dense, fitted, hessian)
        for _ in range(self.rounds):
            gain = ((dense - fitted) @ hessian).square_() / diagonal
            worth = torch.where(mask, gain, fitted.square() * diagonal)
            chosen = n_of_m(worth, *group) if group else self.lowest(worth, mask)
            if torch.equal(chosen, mask):
                break
            candidate = solve(dense, hessian, chosen, fitted, self.iterations)
            candidate_error = row_error(dense, candidate, hessian)
            better = self.total(candidate_error) < self.total(error)
            if not better.any():
                break
            mask = torch.where(better[:, None], chosen, mask)
            fitted = torch.where(better[:, None], candidate, fitted)
            error = torch.where(better, candidate_error, error)
        return Pruned(mask, fitted)

    def lowest(self, worth: Tensor, mask: Tensor) -> Tensor:
        """The mask of the lowest worths, with as many zeros as `mask`."""
        if self.scope == "row":
            return lowest_by_count(worth, mask.sum(dim=1))
        return lowest_per_row(worth.reshape(1, -1), int(mask.sum())).reshape(mask.shape)

    def total(self, row_errors: Tensor) -> Tensor:
        """What must fall for a row to take its new support [rows]."""
        return row_errors if self.scope == "row" else row_errors.sum().expand_as(row_errors)
