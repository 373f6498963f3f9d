"""No update: survivors keep what the method gave them."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from secateur.methods.base import Pruned
from secateur.recovery.base import Update
from secateur.statistics import SiteStatistics


class KeepWeights(Update):
    """`none`: survivors keep what the method gave them."""

    needs: ClassVar[str] = "nothing"
    updates_weights: ClassVar[bool] = False

    def update(self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned]) -> list[Pruned]:
        """Nothing changes."""
        return list(pruned)
