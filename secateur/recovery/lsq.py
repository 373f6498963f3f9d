"""The best surviving weights for a given mask, in the least-squares sense."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from secateur.least_squares import damped, solve
from secateur.methods.base import Pruned
from secateur.recovery.base import Update
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class LeastSquares(Update):
    """min ‖(W - W')X‖² + λ‖W - W'‖² with W' zero outside the mask, row by row, by conjugate gradients (`least_squares.py`).

    What `obs` approximates in one sweep from left to right, solved for all columns together.
    """

    percdamp: float = 0.01
    iterations: int = 20

    needs: ClassVar[str] = "gram"

    def update(self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned]) -> list[Pruned]:
        """All linears of the site; weights that the method or the refinement already moved are where the search begins."""
        hessian = damped(statistics.hessian, self.percdamp)
        return [
            Pruned(result.mask, solve(weight.float(), hessian, result.mask, result.weight, self.iterations))
            for weight, result in zip(weights, pruned, strict=True)
        ]
