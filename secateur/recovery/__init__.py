"""What may follow the mask: updates of the surviving weights, by name."""

from typing import TYPE_CHECKING

from secateur.registry import Registry

if TYPE_CHECKING:
    from secateur.recovery.base import Update

UPDATES: "Registry[type[Update]]" = Registry("weight update")
UPDATES.add("lsq", "secateur.recovery.lsq:LeastSquares")
UPDATES.add("none", "secateur.recovery.none:KeepWeights")
UPDATES.add("obs", "secateur.recovery.obs:OptimalBrainSurgeon")
UPDATES.add("reconstruct", "secateur.recovery.reconstruct:BlockReconstruction")
