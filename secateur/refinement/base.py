"""What a mask refinement is: another mask with as many zeros in the layer, and in every group of an n:m pattern."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from secateur.methods.base import Pruned, Target
from secateur.statistics import SiteStatistics


class Refinement(ABC):
    """Base of all refinements. Subclasses are frozen dataclasses."""

    needs: ClassVar[str]
    updates_weights: ClassVar[bool] = False

    @abstractmethod
    def refine(
        self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned], targets: Sequence[Target]
    ) -> list[Pruned]:
        """New masks for all linears of one site. Weights that the method moved for its own mask are given up."""
