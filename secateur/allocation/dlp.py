"""DLP: blocks whose typical score is high keep fewer weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from secateur.allocation.base import Allocation, SiteWeights, block_scores, recentred
from secateur.errors import UserError


@dataclass(frozen=True)
class DLP(Allocation):
    """u_ℓ = median of the Wanda scores of block ℓ (the lower one of two), importance 1 - u_ℓ / Σu; the keep ratio is the
    importance stretched to a spread of 2α around 1 - s.

    Chen et al., DLP: Dynamic Layerwise Pruning in Large Language Models (arXiv 2505.23807). Its released code takes the mean
    instead: `statistic: mean`.
    """

    alpha: float = 0.15
    statistic: str = "median"

    needs: ClassVar[str] = "moments"

    def __post_init__(self) -> None:
        if self.statistic not in ("median", "mean"):
            raise UserError(f"dlp statistic {self.statistic!r}: must be 'median' or 'mean'")
        if self.alpha < 0:
            raise UserError(f"dlp alpha {self.alpha}: must be at least 0")

    def measure(self, sites: Sequence[SiteWeights]) -> float:
        """u."""
        return self.unimportance(block_scores(sites))

    def unimportance(self, scores: Tensor) -> float:
        """Median or mean of one block's scores."""
        return float(scores.median() if self.statistic == "median" else scores.mean())

    @staticmethod
    def importance(measures: Sequence[float]) -> list[float]:
        """1 - u_ℓ / Σu."""
        total = sum(measures)
        return [1 - value / total if total else 1.0 for value in measures]

    def keep_ratios(self, measures: Sequence[float], sparsity: float) -> list[float]:
        """The more important, the more stays."""
        return recentred(self.importance(measures), 2 * self.alpha, sparsity)
