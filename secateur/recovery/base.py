"""What a weight update is: new values for the weights that a mask left."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor

from secateur.methods.base import Pruned
from secateur.statistics import SiteStatistics


class Update(ABC):
    """Base of all updates."""

    needs: ClassVar[str]
    updates_weights: ClassVar[bool] = True

    @property
    def walks(self) -> bool:
        """Whether it needs the hidden states before the block, which the propagation `dense` does not have."""
        return False

    @abstractmethod
    def update(self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned]) -> list[Pruned]:
        """New survivors for all linears of one site; masks stay as they are."""


class BlockUpdate(Update):
    """Base of the updates that wait until all sites of a block are pruned. They need its inputs: not the propagation `dense`."""

    needs: ClassVar[str] = "tokens"
    batch: int
    """Windows that `fit` sends through the block at once."""

    @property
    def walks(self) -> bool:
        return True

    @property
    @abstractmethod
    def passes(self) -> int:
        """Forward passes of all windows through the block that `fit` is worth; a backward pass counts two."""

    def update(self, weights: Sequence[Tensor], statistics: SiteStatistics, pruned: Sequence[Pruned]) -> list[Pruned]:
        """Nothing to do at a site."""
        return list(pruned)

    @abstractmethod
    def fit(
        self,
        forward: Callable[[Tensor], Tensor],
        survivors: Sequence[tuple[Tensor, Tensor]],
        inputs: Tensor,
        targets: Tensor,
        seed: int,
    ) -> None:
        """New survivors for the whole block, in place.

        `survivors` are weights, each with a mask of its shape that is True where it was kept. `inputs` [windows, length,
        hidden] is what the pruned model sends into the block, `targets` what the dense model has after it. `forward` is the
        block on min(`batch`, windows) of them; `seed` decides everything random.
        """
