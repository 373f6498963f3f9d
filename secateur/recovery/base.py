"""What a weight update is: new values for the weights that a mask left."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from secateur.methods.base import Pruned
from secateur.statistics import SiteStatistics


class Update(ABC):
    """Base of all updates."""

    needs: ClassVar[str]
    updates_weights: ClassVar[bool] = True

    @abstractmethod
    def update(self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned]) -> list[Pruned]:
        """New survivors for all linears of one site; masks stay as they are."""
