"""No refinement: the mask stays what the method chose."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from secateur.methods.base import Pruned, Target
from secateur.refinement.base import Refinement
from secateur.statistics import SiteStatistics


class KeepMask(Refinement):
    """`none`: nothing changes."""

    needs: ClassVar[str] = "nothing"

    def refine(
        self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned], targets: Sequence[Target]
    ) -> list[Pruned]:
        """Nothing changes."""
        return list(pruned)
