"""What a method is: something that turns the weights and statistics of one site into masks (and new weights)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.finite import not_finite
from secateur.patterns import COUNTS, check_sparsity, layer_threshold, n_of_m, parse_pattern, row_k
from secateur.statistics import SiteStatistics


@dataclass(frozen=True)
class Target:
    """How much of one linear goes, and in which pattern.

    `count`: "reference" keeps the published codes' off-by-one of the threshold rules, "exact" prunes exactly k.
    """

    sparsity: float
    pattern: str = "unstructured"
    count: str = "reference"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity)
        parse_pattern(self.pattern)
        if self.count not in COUNTS:
            raise UserError(f"count {self.count!r}: must be {' or '.join(map(repr, COUNTS))}")


@dataclass(frozen=True)
class Pruned:
    """The answer for one linear: `mask` [out, in], True = pruned; `weight` [out, in] fp32, only if survivors changed."""

    mask: Tensor
    weight: Tensor | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a method may ask of the block that a site is in, and where it writes down what it decided there.

    `attention(weights, samples)`: the block's attention probabilities [heads, tokens, tokens] for the first calibration
    sequences, some heads at a time, with these weights [out, in] for the linears of the site; None where no inputs are at hand
    (propagation `dense`).
    `choices` becomes the block's entry of the run's `choices.json`: JSON values only.
    """

    attention: Callable[[Sequence[Tensor], int], Iterator[Tensor]] | None = None
    choices: dict[str, Any] = field(default_factory=dict)


class Method(ABC):
    """Base of all methods. Subclasses are frozen dataclasses; their fields are the method's options."""

    needs: ClassVar[str]
    updates_weights: ClassVar[bool] = False
    gradients: ClassVar[bool] = False  # whether it reads the gradients of the dense model's loss as well

    @property
    def walks(self) -> bool:
        """Whether it needs the hidden states before the block, which the propagation `dense` does not have."""
        return False

    @abstractmethod
    def prune(self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target]) -> list[Pruned]:
        """Prune all linears of one site: `weights` [out, in] each, sharing the input that `statistics` describes."""

    def prune_in(
        self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target], around: Surroundings
    ) -> list[Pruned]:
        """What the engine calls: `prune`, unless the method looks at more of the block than one site's statistics."""
        return self.prune(weights, statistics, targets)


def check_scores(scores: Tensor) -> None:
    """Refuse scores that cannot be compared."""
    if kind := not_finite(scores):
        raise UserError(
            f"the scores are not finite, they hold {kind}: weights times statistics overflow fp32, or one of them is not finite "
            "(secateur.perplexity names such a weight)"
        )


class ScoreMethod(Method):
    """A method that is a score and a selection rule: low scores go, survivors keep their values."""

    rule: ClassVar[str] = "row"

    @abstractmethod
    def score(self, weight: Tensor, statistics: SiteStatistics) -> Tensor:
        """Importance [out, in] of every weight, in fp32."""

    def prune(self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target]) -> list[Pruned]:
        """Score every linear and select by n:m, or by the method's own rule ("row" or "layer")."""
        return [
            Pruned(self.select(self.score(weight.float(), statistics), target))
            for weight, target in zip(weights, targets, strict=True)
        ]

    def select(self, scores: Tensor, target: Target) -> Tensor:
        """The mask that `target` asks for."""
        check_scores(scores)
        if target.sparsity == 0:
            return torch.zeros_like(scores, dtype=torch.bool)
        if group := parse_pattern(target.pattern):
            return n_of_m(scores, *group)
        if self.rule == "row":
            return row_k(scores, target.sparsity)
        return layer_threshold(scores, target.sparsity, target.count)
