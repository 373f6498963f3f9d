"""The linears of a site as D2Prune sees them: queries, keys and values apart, even where a model fuses them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.methods.base import Pruned, Target
from secateur.models.linears import attention_letters
from secateur.statistics import NormSums, SiteStatistics


@dataclass(frozen=True)
class Part:
    """A linear, or a third of a fused one: the letter "q", "k", "v" or "", which linear of the site, and what is known of it."""

    letter: str
    linear: int
    weight: Tensor
    outputs: NormSums
    target: Target


def parts_of(weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target]) -> list[Part]:
    """The linears of the site, a fused one in thirds."""
    if len(statistics.outputs) != len(weights):
        raise UserError("this method needs the bundle 'outputs', and the statistics do not hold it")
    parts = []
    for index, (path, weight, target) in enumerate(zip(statistics.outputs, weights, targets, strict=True)):
        letters = attention_letters(path) or " "
        size = len(weight) // len(letters)
        for place, letter in enumerate(letters):
            rows = slice(place * size, (place + 1) * size)
            outputs = statistics.outputs[path].rows(rows.start, rows.stop)
            parts.append(Part(letter.strip(), index, weight[rows], outputs, target))
    return parts


def values_of(part: Part, pruned: Pruned) -> Tensor:
    """The pruned weight [out, in] of one part."""
    return part.weight.float().masked_fill(pruned.mask, 0) if pruned.weight is None else pruned.weight


def weights_of(parts: Sequence[Part], solved: Sequence[Pruned]) -> list[Tensor]:
    """The pruned weights of each linear of the site."""
    pairs, linears = list(zip(parts, solved, strict=True)), sorted({part.linear for part in parts})
    return [torch.cat([values_of(*pair) for pair in pairs if pair[0].linear == linear]) for linear in linears]


def join_parts(parts: Sequence[Part], solved: Sequence[Pruned]) -> list[Pruned]:
    """One answer for each linear; a fused one has new weights if any of its thirds has."""
    joined = []
    for linear, weight in enumerate(weights_of(parts, solved)):
        own = [pruned for part, pruned in zip(parts, solved, strict=True) if part.linear == linear]
        moved = any(pruned.weight is not None for pruned in own)
        joined.append(Pruned(torch.cat([pruned.mask for pruned in own]), weight if moved else None))
    return joined
