"""ALPS: the pruning of one layer as an l0-constrained least-squares problem, solved by ADMM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.least_squares import damped, solve
from secateur.methods.base import Method, Pruned, Target
from secateur.patterns import layer_threshold, n_of_m, parse_pattern
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class ALPS(Method):
    """min ‖(Ŵ - W)X‖² + λ‖Ŵ - W‖² with at most k weights, split into W = D, D with k weights:

        W ← (ŴH - V + ρD)(H + ρI)⁻¹        D ← the k largest of W + V/ρ        V ← V + ρ(W - D)

    in inputs scaled so that diag H = 1, with H factored once as QΛQᵀ. Every third step ρ grows by 1.3, 1.2 or 1.1 as the
    support of D moved by 10 %, 0.5 % or less of k since; when it stands still, the survivors are fitted by conjugate gradients.

    Meng et al., ALPS: Improved Optimization for Highly Sparse One-Shot Pruning (arXiv 2406.07831).
    """

    percdamp: float = 0.01
    rho: float = 0.1
    steps: int = 300
    iterations: int = 10

    needs: ClassVar[str] = "gram"
    updates_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (self.percdamp > 0 and self.rho > 0):
            raise UserError(f"alps percdamp {self.percdamp}, rho {self.rho}: must both be above 0")

    def prune(self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target]) -> list[Pruned]:
        """One eigendecomposition for all linears of the site."""
        hessian = damped(statistics.hessian, self.percdamp)
        scale = hessian.diagonal().sqrt()
        scaled = hessian / scale / scale[:, None]
        try:
            values, vectors = torch.linalg.eigh(scaled)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            why = " ".join(str(error).split())
            raise UserError(f"alps cannot factor the Hessian ({why}): raise percdamp {self.percdamp:g}") from None
        results = []
        for weight, target in zip(weights, targets, strict=True):
            mask = self.support(weight.float() * scale, scaled, values, vectors, target)
            results.append(Pruned(mask, solve(weight.float(), hessian, mask, iterations=self.iterations)))
        return results

    def support(self, dense: Tensor, hessian: Tensor, values: Tensor, vectors: Tensor, target: Target) -> Tensor:
        """The mask that ADMM settles on; `dense` and `hessian` are scaled, `values` and `vectors` factor `hessian`."""
        group = parse_pattern(target.pattern)
        pull = dense @ hessian
        sparse, dual, rho = dense, torch.zeros_like(dense), self.rho
        mask = last = torch.zeros_like(dense, dtype=torch.bool)
        for step in range(1, self.steps + 1):
            current = ((pull - dual + rho * sparse) @ vectors / (values + rho)) @ vectors.T
            free = current + dual / rho
            mask = n_of_m(free.abs(), *group) if group else layer_threshold(free.abs(), target.sparsity, target.count)
            sparse = free.masked_fill(mask, 0)
            dual = dual + rho * (current - sparse)
            if step % 3 == 0:
                moved, kept = int((mask != last).sum()), mask.numel() - int(mask.sum())
                if moved == 0:
                    break
                rho *= 1.3 if moved >= 0.1 * kept else 1.2 if moved >= 0.005 * kept else 1.1
                last = mask
        return mask
