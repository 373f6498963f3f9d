"""Pruning methods by name. A new method is one file and one line here (or one `METHODS.add` call in your own code)."""

from typing import TYPE_CHECKING

from secateur.registry import Registry

if TYPE_CHECKING:
    from secateur.methods.base import Method

METHODS: "Registry[type[Method]]" = Registry("method")
METHODS.add("alps", "secateur.methods.alps:ALPS")
METHODS.add("formula", "secateur.methods.formula:Formula")
METHODS.add("d2prune", "secateur.methods.d2prune:D2Prune")
METHODS.add("magnitude", "secateur.methods.magnitude:Magnitude")
METHODS.add("pruner_zero", "secateur.methods.pruner_zero:PrunerZero")
METHODS.add("sparsegpt", "secateur.methods.sparsegpt:SparseGPT")
METHODS.add("wanda", "secateur.methods.wanda:Wanda")
