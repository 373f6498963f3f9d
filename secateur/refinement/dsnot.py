"""Regrow and prune one weight of a row at a time until the mean error of its output vanishes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.methods.base import Pruned, Target
from secateur.patterns import parse_pattern
from secateur.refinement.base import Refinement
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class DSnoT(Refinement):
    """The mean error of an output is ε = Σ_pruned w_j·E[x_j]. Each cycle lets back the pruned weight with the largest
    sign(ε)·w_j·E[x_j] / Var[x_j], and prunes the kept weight with the smallest |w_j|·‖x_j‖ among those whose loss pushes ε
    back towards zero. A row stops when |ε| ≤ `threshold`, when a cycle would not bring ε closer to zero, or after `cycles`.
    In an n:m pattern both weights lie in the same group.

    It sees means alone, so the squared error of a layer may rise while its mean falls.

    Zhang et al., Dynamic Sparse No Training (arXiv 2310.08915).
    """

    cycles: int = 50
    threshold: float = 0.1

    needs: ClassVar[str] = "moments"

    def refine(
        self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned], targets: Sequence[Target]
    ) -> list[Pruned]:
        """Linear by linear."""
        if statistics.input_sum is None or statistics.input_square_sum is None:
            raise UserError("dsnot needs the bundle 'moments', and the statistics do not hold it")
        mean = statistics.input_sum / statistics.tokens
        variance = statistics.input_square_sum / statistics.tokens - mean.square()
        return [
            Pruned(self.linear(weight.float(), mean, variance, statistics.input_energy, result.mask.clone(), target.pattern))
            for weight, result, target in zip(weights, pruned, targets, strict=True)
        ]

    def linear(self, weight: Tensor, mean: Tensor, variance: Tensor, energy: Tensor, mask: Tensor, pattern: str) -> Tensor:
        """The mask after the cycles; rows that have settled are left out of the next one."""
        group = parse_pattern(pattern)
        part = torch.arange(weight.shape[1], device=weight.device) // (group[1] if group else weight.shape[1])
        share, wanda = weight * mean, weight.abs() * energy.sqrt()
        spread = variance.clamp(min=torch.finfo(variance.dtype).eps)
        error = (share * mask).sum(dim=1)
        rows = torch.arange(len(weight), device=weight.device)
        for _ in range(self.cycles):
            rows = rows[error[rows].abs() > self.threshold]
            if not len(rows):
                break
            sign = error[rows].sign()[:, None]
            grow = torch.where(mask[rows], sign * share[rows] / spread, -torch.inf).argmax(dim=1)
            # Pruning j adds w_j·E[x_j] to the error: only those of the other sign shrink it.
            allowed = ~mask[rows] & (sign * share[rows] < 0) & (part == part[grow][:, None])
            drop = torch.where(allowed, wanda[rows], torch.inf).argmin(dim=1)
            after = error[rows] - share[rows, grow] + share[rows, drop]
            moving = allowed.any(dim=1) & (after.abs() < error[rows].abs())
            rows, grow, drop = rows[moving], grow[moving], drop[moving]
            mask[rows, grow], mask[rows, drop] = False, True
            error[rows] = after[moving]
        return mask
