"""Wanda: weights times input norms, compared inside each output row."""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from secateur.errors import UserError
from secateur.methods.base import ScoreMethod, Target, check_scores
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class Wanda(ScoreMethod):
    """S_ij = |w_ij| · sqrt(a_j), a_j the energy of input j; in every row the k lowest go. No weight update.

    `use_variant` replaces the fixed k of each row by a share α of the row's total score, α found by bisection so that the
    layer reaches its target on average.

    Sun et al., A Simple and Effective Pruning Approach for Large Language Models (arXiv 2306.11695).
    """

    use_variant: bool = False

    needs: ClassVar[str] = "moments"

    def score(self, weight: Tensor, statistics: SiteStatistics) -> Tensor:
        """|W| · sqrt(a)."""
        return weight.abs() * statistics.input_energy.sqrt()

    def select(self, scores: Tensor, target: Target) -> Tensor:
        """Wanda's row rule or n:m; the variant has its own."""
        if not self.use_variant or target.sparsity == 0:
            return super().select(scores, target)
        if target.pattern != "unstructured":
            raise UserError(f"wanda use_variant has no {target.pattern} form: use pattern 'unstructured'")
        return cumulative_share(scores, target.sparsity).mask


@dataclass
class Bisection:
    """Where the search for α ended: the mask, α, the sparsity of the mask, and every (α, sparsity) on the way."""

    mask: Tensor
    alpha: float
    sparsity: float
    history: list[tuple[float, float]] = field(default_factory=list)


def cumulative_share(
    scores: Tensor, sparsity: float, alpha: float = 0.4, bracket: tuple[float, float] = (0.0, 0.8), tolerance: float = 1e-3
) -> Bisection:
    """Prune, in every row, the lowest scores that together hold at most a share α of the row's total; bisect α.

    cnt_r = #{q : c_q ≤ α·T_r} with c the prefix sums of the row's ascending scores and T_r their total; everything up to and
    including the cnt_r-th score goes. A row with cnt_r = 0 keeps all its weights (the published code fails there).
    """
    ascending = scores.sort(dim=1).values
    prefix = ascending.cumsum(dim=1)
    total = prefix[:, -1:]

    def mask_at(alpha: float) -> Tensor:
        count = (prefix <= alpha * total).sum(dim=1, keepdim=True)
        threshold = ascending.gather(1, (count - 1).clamp(min=0))
        return (scores <= threshold) & (count > 0)

    def measured(alpha: float) -> tuple[Tensor, float]:
        mask = mask_at(alpha)
        return mask, int(mask.sum()) / mask.numel()

    low, high = bracket
    mask, achieved = measured(alpha)
    history = [(alpha, achieved)]
    while abs(achieved - sparsity) > tolerance and high - low >= tolerance:
        if achieved > sparsity:
            alpha, high = (alpha + low) / 2, alpha
        else:
            alpha, low = (alpha + high) / 2, alpha
        mask, achieved = measured(alpha)
        history.append((alpha, achieved))
    check_scores(total)  # which is not finite where a score is not, or where their sum overflows
    return Bisection(mask, alpha, achieved, history)
