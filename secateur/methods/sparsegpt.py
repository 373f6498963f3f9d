"""SparseGPT: prune column by column and let the remaining columns make up for what went."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from secateur.errors import UserError
from secateur.methods.base import Method, Pruned, Target
from secateur.statistics import SiteStatistics
from secateur.sweep import Factor, sweep


@dataclass(frozen=True)
class SparseGPT(Method):
    """For each block of columns choose the weights with the lowest w²/U_jj², then sweep left to right: zero them and spread
    each error over the columns to its right, w ← w - (w_j / U_jj)·U_j. U is the upper Cholesky factor of (H + λI)⁻¹ and
    λ = `percdamp`·mean(diag H).

    Frantar and Alistarh, Massive Language Models Can Be Accurately Pruned in One-Shot (arXiv 2301.00774).
    """

    percdamp: float = 0.01
    blocksize: int = 128

    needs: ClassVar[str] = "gram"
    updates_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.percdamp > 0:
            raise UserError(f"sparsegpt percdamp {self.percdamp}: must be above 0")
        if self.blocksize < 1:
            raise UserError(f"sparsegpt blocksize {self.blocksize}: must be at least 1")

    def prune(self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target]) -> list[Pruned]:
        """One factorisation and one sweep for all linears of the site; each linear keeps its own thresholds."""
        factor = Factor.of(statistics.hessian, self.percdamp)
        return sweep(weights, factor, self.blocksize, targets=targets).pruned
