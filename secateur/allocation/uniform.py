"""The same sparsity in every block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from secateur.allocation.base import Allocation, SiteWeights


@dataclass(frozen=True)
class Uniform(Allocation):
    """s_ℓ = s."""

    needs: ClassVar[str] = "nothing"

    def measure(self, sites: Sequence[SiteWeights]) -> float:
        """Nothing is measured."""
        return 0.0

    def keep_ratios(self, measures: Sequence[float], sparsity: float) -> list[float]:
        """1 - s."""
        return [1 - sparsity] * len(measures)

    def sparsities(self, measures: Sequence[float], sparsity: float) -> list[float]:
        """s itself, not 1 - (1 - s)."""
        return [sparsity] * len(measures)

    def patterns(self, measures: Sequence[float], pattern: str) -> list[str]:
        """The pattern itself."""
        return [pattern] * len(measures)
