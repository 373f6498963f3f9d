"""OWL: blocks with more outliers keep more weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from secateur.allocation.base import Allocation, SiteWeights, block_scores, recentred
from secateur.errors import UserError
from secateur.patterns import parse_pattern
from secateur.shares import DENSE


@dataclass(frozen=True)
class OWL(Allocation):
    """D_ℓ = 100·#{v > M·mean(v)} / |v|, v the Wanda scores |W|·sqrt(a) of all linears of block ℓ; the keep ratio is D stretched
    to a spread of 2λ around 1 - s. With n:m, block ℓ has n - round(D stretched to λ, less its mean) zeros in every m.

    Yin et al., Outlier Weighed Layerwise Sparsity (arXiv 2310.05175).
    """

    outlier: float = 5.0
    lam: float = 0.08

    needs: ClassVar[str] = "moments"

    def __post_init__(self) -> None:
        if not (self.outlier > 0 and self.lam >= 0):
            raise UserError(f"owl outlier {self.outlier}, lam {self.lam}: must be above 0, and at least 0")

    def measure(self, sites: Sequence[SiteWeights]) -> float:
        """D in percent."""
        return self.outliers(block_scores(sites))

    def outliers(self, scores: Tensor) -> float:
        """D of one block's scores, all in one vector."""
        return 100 * int((scores > self.outlier * scores.mean()).sum()) / scores.numel()

    def keep_ratios(self, measures: Sequence[float], sparsity: float) -> list[float]:
        """The more outliers, the more stays."""
        return recentred(measures, 2 * self.lam, sparsity)

    def zeros(self, measures: Sequence[float], n: int, m: int) -> list[int]:
        """n_ℓ of the mixed form; `lam` is in weights there."""
        low, high = min(measures), max(measures)
        stretched = [(value - low) / (high - low) * self.lam if high > low else 0.0 for value in measures]
        mean = sum(stretched) / len(stretched)
        return [min(m, max(0, n - round(value - mean))) for value in stretched]

    def patterns(self, measures: Sequence[float], pattern: str) -> list[str]:
        """n_ℓ:m; a block with n_ℓ = 0 stays dense, and n_ℓ = m is refused."""
        group = parse_pattern(pattern)
        assert group is not None
        zeros = self.zeros(measures, *group)
        if group[1] in zeros:
            raise UserError(f"owl lam {self.lam} leaves nothing of a block of pattern {pattern}; use a smaller lam")
        return [f"{n}:{group[1]}" if n else DENSE for n in zeros]
