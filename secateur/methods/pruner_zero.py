"""Pruner-Zero: a metric of weights and gradients that was found by genetic programming."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from secateur.methods.gradient_score import GradientScore, gradient_of, min_max
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class PrunerZero(GradientScore):
    """S_ij = w_ij² · mms(G)_ij, G the gradient magnitude of the dense model (`secateur/statistics/gradients.py`), mms over the
    whole matrix; in every row the k lowest go. No weight update, no activations.

    Dong et al., Pruner-Zero: Evolving Symbolic Pruning Metric From Scratch for Large Language Models (arXiv 2406.02924).
    """

    needs: ClassVar[str] = "nothing"

    def score(self, weight: Tensor, statistics: SiteStatistics) -> Tensor:
        """W² · mms(G)."""
        return weight.square() * min_max(gradient_of(statistics))
