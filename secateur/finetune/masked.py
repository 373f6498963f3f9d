"""Adapters whose effective weight is masked in every forward pass, and those that are not, on peft's own layers.

This file imports peft: call `packages.need` before it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear

from secateur.finetune.origin import Origin
from secateur.finetune.recipes import FineTuning
from secateur.models.linears import LINEARS, as_stored, inputs_first, linear_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "default"  # peft's name for the only adapter


class MaskedLinear(Linear):
    """peft's LoRA layer, with ΔW zero where the base weight is pruned: y = (P̄ ⊙ (W + (α/r)·B·A))·x + b.

    W is zero outside P̄ already, so only ΔW needs the mask, and peft's own `merge` becomes exact. With LoRA's dropout, which
    acts on the input of the adapter alone, the two terms are computed apart: W·x + b + (P̄ ⊙ (α/r)·B·A)·dropout(x).
    B·A is formed in every forward pass: a product [out, in] a layer, kept for the backward pass.
    """

    pruned: Tensor

    def base(self) -> Any:
        """The frozen linear; peft says no more of it than that it is a module."""
        return self.get_base_layer()

    def mask(self, pruned: Tensor) -> None:
        """Set the mask [out, in], True = pruned; needed before the first forward pass."""
        self.register_buffer("pruned", as_stored(self.base(), pruned.to(self.base().weight.device)), persistent=False)

    def get_delta_weight(self, adapter: str) -> Tensor:
        """P̄ ⊙ (α/r)·B·A in the layout of the base weight."""
        return super().get_delta_weight(adapter).masked_fill(self.pruned, 0)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters or self.merged:
            return super().forward(x, *args, **kwargs)
        base, delta = self.base(), self.get_delta_weight(ADAPTER)
        if self.training and isinstance(dropout := self.lora_dropout[ADAPTER], nn.Dropout):
            return base(x) + linear(dropout(x), as_stored(base, delta))  # either layout is the other's transpose
        return linear(x, as_stored(base, base.weight + delta), base.bias)


def lora_config(origin: Origin, paths: Sequence[str], settings: FineTuning, inputs_first: bool) -> LoraConfig:
    """peft's configuration of adapters on these linears of every block, which store [in, out] if `inputs_first`."""
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]  # declared int, but a float is as good
        lora_dropout=settings.dropout,
        target_modules=origin.pattern(paths),  # not a list, which peft stores as a set, in any order
        fan_in_fan_out=inputs_first,
    )


def add_adapters(whole: "PreTrainedModel", origin: Origin, paths: Sequence[str], settings: FineTuning) -> PeftModel:
    """New adapters on these linears of every block, everything else frozen; masked ones if that is the training."""
    config = lora_config(origin, paths, settings, inputs_first(linear_at(whole, origin.name(0, paths[0]))))
    if settings.train != "masked_lora":
        return get_peft_model(whole, config)
    config._register_custom_module(dict.fromkeys(LINEARS, MaskedLinear))  # the way that peft's guide shows
    adapted = get_peft_model(whole, config)
    for name, mask in origin.masks(paths).items():
        layer = adapted.get_base_model().get_submodule(name)
        assert isinstance(layer, MaskedLinear)
        layer.mask(mask)
    return adapted
