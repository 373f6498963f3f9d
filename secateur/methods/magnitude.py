"""Magnitude pruning: small weights go. No data."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from secateur.errors import UserError
from secateur.methods.base import ScoreMethod, Target, check_scores
from secateur.patterns import row_k
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class Magnitude(ScoreMethod):
    """S_ij = |w_ij|, one threshold for the whole matrix, as Wanda's code does it; `group: row` compares inside a row.

    Han et al., Learning both Weights and Connections for Efficient Neural Networks (arXiv 1506.02626).
    """

    group: str = "layer"

    needs: ClassVar[str] = "nothing"
    rule: ClassVar[str] = "layer"

    def __post_init__(self) -> None:
        if self.group not in ("layer", "row"):
            raise UserError(f"magnitude group {self.group!r}: must be 'layer' or 'row'")

    def score(self, weight: Tensor, statistics: SiteStatistics) -> Tensor:
        """|W|."""
        return weight.abs()

    def select(self, scores: Tensor, target: Target) -> Tensor:
        """Wanda's rule is one threshold; `group: row` replaces it for unstructured targets."""
        if self.group == "row" and target.pattern == "unstructured":
            check_scores(scores)
            return row_k(scores, target.sparsity)
        return super().select(scores, target)
