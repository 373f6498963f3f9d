"""Rules that spread a run's sparsity over the blocks, by name."""

from typing import TYPE_CHECKING

from secateur.registry import Registry

if TYPE_CHECKING:
    from secateur.allocation.base import Allocation

ALLOCATIONS: "Registry[type[Allocation]]" = Registry("allocation")
ALLOCATIONS.add("alpha", "secateur.allocation.alpha:AlphaPruning")
ALLOCATIONS.add("dlp", "secateur.allocation.dlp:DLP")
ALLOCATIONS.add("owl", "secateur.allocation.owl:OWL")
ALLOCATIONS.add("uniform", "secateur.allocation.uniform:Uniform")
