"""The SparseGPT sweep with the mask given: only its compensation, for any mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from secateur.methods.base import Pruned
from secateur.recovery.base import Update
from secateur.statistics import SiteStatistics
from secateur.sweep import Factor, sweep


@dataclass(frozen=True)
class OptimalBrainSurgeon(Update):
    """Sweep the columns left to right and spread the error of each pruned weight over the columns to its right.

    After a Wanda mask this is the ablation `wanda_seq` of Sun et al. (arXiv 2306.11695), after magnitude `magnitude_seq`.
    """

    percdamp: float = 0.01
    blocksize: int = 128

    needs: ClassVar[str] = "gram"

    def update(self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned]) -> list[Pruned]:
        """All linears of the site in one sweep."""
        factor = Factor.of(statistics.hessian, self.percdamp)
        return sweep(weights, factor, self.blocksize, masks=[result.mask for result in pruned]).pruned
