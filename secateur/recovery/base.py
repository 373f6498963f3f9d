"""What a weight update is: new values for the weights that a mask left."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
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


class BlockUpdate(Update):
    """Base of the updates that wait until all sites of a block are pruned. They need its inputs: not the propagation `dense`."""

    needs: ClassVar[str] = "tokens"
    walks: ClassVar[bool] = True
    batch: int
    """Windows that `fit` sends through the block at once."""

    def update(self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned]) -> list[Pruned]:
        """Nothing to do at a site."""
        return list(pruned)

    @abstractmethod
    def fit(
        self,
        forward: Callable[[Tensor], Tensor],
        survivors: Mapping[Tensor, Tensor],
        inputs: Tensor,
        targets: Tensor,
        seed: int,
    ) -> None:
        """New survivors for the whole block, in place.

        `survivors` maps each weight to a mask of its shape, True where it was kept. `inputs` [windows, length, hidden] is what
        the pruned model sends into the block, `targets` what the dense model has after it. `forward` is the block on
        min(`batch`, windows) of them; `seed` decides everything random.
        """
