"""AlphaPruning: blocks whose spectra have heavier tails keep more weights. No data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.allocation.base import Allocation, SiteWeights
from secateur.errors import UserError


@dataclass(frozen=True)
class AlphaPruning(Allocation):
    """A linear's tail exponent is its Hill estimate 1 + k / Σ_{i ≤ k} ln(λ_i / λ_{k+1}), λ the eigenvalues of WᵀW from the
    largest down and k half of them; a block's α_ℓ is the mean over its linears. A light tail (large α) is pruned more:
    s_ℓ = η·(1 - τ + 2τ·(α_ℓ - min α) / (max α - min α)) with η such that the mean is s.

    Lu et al., AlphaPruning (arXiv 2410.10912).
    """

    tau: float = 0.3

    needs: ClassVar[str] = "nothing"

    def __post_init__(self) -> None:
        if not 0 <= self.tau < 1:
            raise UserError(f"alpha tau {self.tau}: must be at least 0 and below 1")

    def measure(self, sites: Sequence[SiteWeights]) -> float:
        """The mean exponent of the block's linears."""
        exponents = [tail_exponent(weight.float()) for weights, _ in sites for weight in weights]
        return sum(exponents) / len(exponents)

    def keep_ratios(self, measures: Sequence[float], sparsity: float) -> list[float]:
        """1 - s_ℓ."""
        low, high = min(measures), max(measures)
        if high == low:
            return [1 - sparsity] * len(measures)
        shape = [1 - self.tau + 2 * self.tau * (value - low) / (high - low) for value in measures]
        scale = sparsity / (sum(shape) / len(shape))
        return [1 - scale * value for value in shape]


def tail_exponent(weight: Tensor) -> float:
    """The Hill estimate for a matrix [out, in]."""
    eigenvalues = torch.linalg.svdvals(weight).square()
    eigenvalues = eigenvalues[eigenvalues > 0]
    tail = len(eigenvalues) // 2
    if tail == 0:
        raise UserError("a layer of zeros has no spectrum to take an exponent of")
    return 1 + tail / float((eigenvalues[:tail] / eigenvalues[tail]).log().sum())
