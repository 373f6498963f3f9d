"""Training the surviving weights themselves, with the zeros fixed."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.finetune.origin import Origin
from secateur.masks import PrunedLinear, PrunedStore
from secateur.models.linears import as_stored, linear_at, weight_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def free_survivors(whole: "PreTrainedModel", names: Sequence[str], masks: Mapping[str, Tensor]) -> None:
    """Make the weights of these linears trainable and nothing else. Their gradients are zero wherever the mask [out, in] is
    True, from the backward pass on: before they are added up, averaged over processes, or clipped. AdamW leaves such zeros alone.

    As Wanda's `dense_ft`, which looks for zeros of the weight after every backward pass; here the run's mask decides.
    """
    whole.requires_grad_(False)
    for name in names:
        layer = linear_at(whole, name)
        layer.weight.requires_grad_(True)
        if name in masks:
            layer.weight.register_hook(_keeping(as_stored(layer, masks[name].to(layer.weight.device))))


def _keeping(pruned: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.masked_fill(pruned, 0)


def survivors(whole: "PreTrainedModel", paths: Sequence[str], origin: Origin, block: int) -> dict[str, PrunedLinear]:
    """What a run stores of one block: the masks it had (none of the dense model's weights is masked), and the survivors' values
    as they are now, rounded to what the checkpoint stores."""
    before = {} if origin.pruned is None else PrunedStore(origin.pruned).read(block)
    after = {}
    for path in origin.adapter.linears:
        name = origin.name(block, path)
        weight = weight_of(linear_at(whole, name)).cpu()
        mask = before[path].mask if path in before else torch.zeros_like(weight, dtype=torch.bool)
        if path in paths:
            after[path] = PrunedLinear(mask, weight[~mask].to(origin.reader.dtype(f"{name}.weight")))
        else:
            after[path] = before.get(path, PrunedLinear(mask))
    return after
