"""What may improve a mask after a method has chosen it, by name."""

from typing import TYPE_CHECKING

from secateur.registry import Registry

if TYPE_CHECKING:
    from secateur.refinement.base import Refinement

REFINEMENTS: "Registry[type[Refinement]]" = Registry("mask refinement")
REFINEMENTS.add("dsnot", "secateur.refinement.dsnot:DSnoT")
REFINEMENTS.add("none", "secateur.refinement.none:KeepMask")
REFINEMENTS.add("reselect", "secateur.refinement.reselect:Reselect")
REFINEMENTS.add("swaps", "secateur.refinement.swaps:Swaps")
