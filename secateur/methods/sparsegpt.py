"""SparseGPT: prune column by column and let the remaining columns make up for what went."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from secateur.errors import UserError, unknown_name
from secateur.methods.base import Method, Pruned, Target
from secateur.statistics import SiteStatistics
from secateur.sweep import Factor, Score, surgeon_score, sweep

Criterion = Literal["surgeon", "magnitude", "wanda"]


@dataclass(frozen=True)
class SparseGPT(Method):
    """For each block of columns choose the weights with the lowest w²/U_jj², then sweep left to right: zero them and spread
    each error over the columns to its right, w ← w - (w_j / U_jj)·U_j. U is the upper Cholesky factor of (H + λI)⁻¹ and
    λ = `percdamp`·mean(diag H).

    `score` is what a block of columns is chosen by: `magnitude` takes |w| and `wanda` |w|·√a of the weights as the errors of
    earlier columns left them, the ablations `magnitude_iter` and `wanda_iter` of Sun et al. (arXiv 2306.11695).

    Frantar and Alistarh, Massive Language Models Can Be Accurately Pruned in One-Shot (arXiv 2301.00774).
    """

    percdamp: float = 0.01
    blocksize: int = 128
    score: Criterion = "surgeon"

    needs: ClassVar[str] = "gram"
    updates_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.percdamp > 0:
            raise UserError(f"sparsegpt percdamp {self.percdamp}: must be above 0")
        if self.blocksize < 1:
            raise UserError(f"sparsegpt blocksize {self.blocksize}: must be at least 1")
        if self.score not in get_args(Criterion):
            raise unknown_name("sparsegpt score", self.score, get_args(Criterion))

    def prune(self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target]) -> list[Pruned]:
        """One factorisation and one sweep for all linears of the site; each linear keeps its own thresholds."""
        factor = Factor.of(statistics.hessian, self.percdamp)
        return sweep(weights, factor, self.blocksize, targets=targets, score=self.score_of(statistics)).pruned

    def score_of(self, statistics: SiteStatistics) -> Score:
        """The score of compensated weights [columns, rows]; low ones go first."""
        if self.score == "surgeon":
            return surgeon_score
        if self.score == "magnitude":
            return lambda weights, pivots, columns: weights.abs()
        norm = statistics.input_energy.sqrt()
        return lambda weights, pivots, columns: weights.abs() * norm[columns, None]
