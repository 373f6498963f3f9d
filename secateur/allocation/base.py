"""What an allocation is: one number measured on every block of the dense model, and a rule that turns them into sparsities."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.patterns import parse_pattern
from secateur.statistics import SiteStatistics

SiteWeights = tuple[Sequence[Tensor], SiteStatistics]
"""The weights [out, in] of one site's linears, and the statistics of their input."""

SMALLEST = 0.01  # what a block gets for which a rule asks zero or less


class Allocation(ABC):
    """Base of all allocations. Subclasses are frozen dataclasses; their fields are the options."""

    needs: ClassVar[str]

    @abstractmethod
    def measure(self, sites: Sequence[SiteWeights]) -> float:
        """The number that describes one block."""

    @abstractmethod
    def keep_ratios(self, measures: Sequence[float], sparsity: float) -> list[float]:
        """Share of weights that stays in every block, before any clipping; its mean is 1 - sparsity."""

    def sparsities(self, measures: Sequence[float], sparsity: float) -> list[float]:
        """Sparsity of every block. Blocks that all measure the same get the same."""
        shares = [1 - keep for keep in self.keep_ratios(measures, sparsity)]
        if worst := [share for share in shares if share >= 1]:
            raise UserError(f"the allocation asks for a sparsity of {worst[0]:.3f} in a block; spread it less")
        return [share if share > 0 else SMALLEST for share in shares]

    def patterns(self, measures: Sequence[float], pattern: str) -> list[str]:
        """A pattern for every block, for allocations that have a mixed n:m form."""
        raise UserError(f"this allocation has no n:m form: pattern {pattern} needs 'uniform' or owl")


def block_scores(sites: Sequence[SiteWeights]) -> Tensor:
    """Wanda's |W|·sqrt(a) of every linear of a block, in one vector."""
    return torch.cat(
        [(weight.float().abs() * known.input_energy.sqrt()).flatten() for weights, known in sites for weight in weights]
    )


def recentred(measures: Sequence[float], spread: float, sparsity: float) -> list[float]:
    """Measures stretched to the width `spread` and moved to the mean 1 - sparsity; all equal: all 1 - sparsity."""
    low, high = min(measures), max(measures)
    if high == low:
        return [1 - sparsity] * len(measures)
    stretched = [(value - low) / (high - low) * spread for value in measures]
    mean = sum(stretched) / len(stretched)
    return [value - mean + (1 - sparsity) for value in stretched]


def shares_of(allocation: Allocation, measures: Sequence[float], sparsity: float, pattern: str) -> list[float] | list[str]:
    """The table for a target: sparsities, or patterns where the target is n:m."""
    return allocation.patterns(measures, pattern) if parse_pattern(pattern) else allocation.sparsities(measures, sparsity)
