"""What methods share that read the gradients of the dense model's loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.methods.base import Pruned, ScoreMethod, Target
from secateur.statistics import SiteStatistics


def min_max(values: Tensor) -> Tensor:
    """mms(x) = (x - min x) / (max x - min x) over the whole tensor; 1 everywhere if x is constant (our rule: the published
    code divides by zero)."""
    low, high = values.min(), values.max()
    return torch.ones_like(values) if low == high else (values - low) / (high - low)


class GradientScore(ScoreMethod):
    """A score that reads the gradient magnitude G [out, in] of its own linear: `gradient_of(statistics)`."""

    gradients: ClassVar[bool] = True

    def prune(self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target]) -> list[Pruned]:
        """One linear at a time, so that `score` meets statistics with the gradient of its linear only."""
        found = statistics.gradients
        if found is None or len(found) != len(weights):
            raise UserError("this method needs the gradient magnitude of each linear, and the statistics do not hold it")
        results = []
        for weight, gradient, target in zip(weights, found, targets, strict=True):
            if gradient.shape != weight.shape:
                raise UserError(f"gradients are {tuple(gradient.shape)}, the weight {tuple(weight.shape)}: another model's")
            results += super().prune([weight], replace(statistics, gradients=(gradient,)), [target])
        return results


def gradient_of(statistics: SiteStatistics) -> Tensor:
    """G of the only linear of `statistics`."""
    assert statistics.gradients is not None and len(statistics.gradients) == 1  # GradientScore.prune sees to it
    return statistics.gradients[0]
