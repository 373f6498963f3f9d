"""What becomes of a weight W [out, in] that has an adapter: A [r, in] leads down, B [out, r] up.

Hu et al., LoRA (arXiv 2106.09685), with the mask as in Sun et al., Wanda (arXiv 2306.11695), section 5.
"""

from torch import Tensor


def delta(down: Tensor, up: Tensor, scale: float) -> Tensor:
    """ΔW = (α/r)·B·A [out, in]; `scale` is α/r."""
    return up @ down * scale


def unmerged(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + (α/r)·B·A: what a layer with its adapter attached multiplies with. Dense, whatever zeros W has."""
    return weight + delta(down, up, scale)


def masked_merge(weight: Tensor, down: Tensor, up: Tensor, scale: float, pruned: Tensor) -> Tensor:
    """P̄ ⊙ (W + (α/r)·B·A), P̄ the complement of the mask `pruned` [out, in]: exact zeros wherever it is True."""
    return unmerged(weight, down, up, scale).masked_fill(pruned, 0)
