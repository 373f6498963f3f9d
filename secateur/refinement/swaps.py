"""Exchange a pruned and a kept weight of a row while the error falls, from the Gram matrix alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.methods.base import Pruned, Target
from secateur.patterns import parse_pattern
from secateur.refinement.base import Refinement
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class Swaps(Refinement):
    """With survivors at their dense values the error of a row is eHeᵀ, e its pruned weights. Exchanging the pruned u for
    the kept p changes it by

        Δ = (2w_p·c_p + w_p²·H_pp) + (w_u²·H_uu - 2w_u·c_u) - 2w_p·w_u·H_pu,      c = eH.

    Each step takes, in every row, the pair with the smallest Δ among the `candidates` most promising u and all p, and is made
    only if Δ < 0; at most `steps` exchanges a row. In an n:m pattern u and p lie in the same group.

    The idea of exchanging by the exact change of the layer error: SparseSwaps (arXiv 2512.10922).
    """

    steps: int = 50
    candidates: int = 4

    needs: ClassVar[str] = "gram"

    def refine(
        self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned], targets: Sequence[Target]
    ) -> list[Pruned]:
        """Linear by linear."""
        return [
            Pruned(self.linear(weight.float(), statistics.hessian, result.mask.clone(), target.pattern))
            for weight, result, target in zip(weights, pruned, targets, strict=True)
        ]

    def linear(self, weight: Tensor, hessian: Tensor, mask: Tensor, pattern: str) -> Tensor:
        """The mask after the exchanges; rows that have settled are left out of the next step."""
        group = parse_pattern(pattern)
        size = group[1] if group else weight.shape[1]
        square = weight.square() * hessian.diagonal()
        correlation = (weight * mask) @ hessian
        rows = torch.arange(len(weight), device=weight.device)
        infinity = torch.tensor(torch.inf, device=weight.device)
        count = min(self.candidates, weight.shape[1])
        for _ in range(self.steps):
            w, c, m, s = weight[rows], correlation[rows], mask[rows], square[rows]
            take_back = torch.where(m, s - 2 * w * c, infinity)
            give_up = torch.where(m, infinity, s + 2 * w * c)
            gain, back = take_back.topk(count, dim=1, largest=False)
            best = infinity.expand(len(rows))
            pair = back.new_zeros(len(rows), 2)
            for option in range(count):
                u = back[:, option]
                w_u = w.gather(1, u[:, None])
                delta = gain[:, option, None] + give_up - 2 * w * w_u * hessian[u]
                if group:
                    same = torch.arange(w.shape[1], device=w.device) // size == (u // size)[:, None]
                    delta = torch.where(same, delta, infinity)
                value, p = delta.min(dim=1)
                closer = value < best
                best = torch.where(closer, value, best)
                pair = torch.where(closer[:, None], torch.stack([u, p], dim=1), pair)
            # A gain within rounding of the row's error is no gain: it could be undone by the next step.
            moving = best < -1e-6 * s.sum(dim=1)
            if not moving.any():
                break
            rows, u, p = rows[moving], pair[moving, 0], pair[moving, 1]
            mask[rows, u], mask[rows, p] = False, True
            correlation[rows] += weight[rows, p, None] * hessian[p] - weight[rows, u, None] * hessian[u]
        return mask
