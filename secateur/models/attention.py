"""Attention probabilities as the model's own code would compute them, with other weights for queries and keys.

Every family hands its queries and keys (after rotary embedding, norms of heads and scaling) with its mask to an attention
function that is looked up by a name in the configuration. Here that function notes them and ends the pass, so nothing about
rotary tables, sliding windows or grouped heads has to be known.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as affine

from secateur.models.linears import bias_of, linear_at

NAME = "secateur_note_and_end"
ENTRIES = 1 << 22  # of one tensor of probabilities: 16 MB


@dataclass(frozen=True)
class AttentionCall:
    """What a block handed to its attention function: queries and keys [batch, heads, tokens, head], `mask` (added to the logits,
    or boolean with True = seen; None: causal if `causal`), and the factor of the logits."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float
    causal: bool = True

    def first(self, sequences: int) -> "AttentionCall":
        """The first sequences alone; the others' memory is let go."""
        mask = None if self.mask is None else self.mask[:sequences]
        return replace(self, query=self.query[:sequences].clone(), key=self.key[:sequences].clone(), mask=mask)

    def probabilities(self) -> Iterator[Tensor]:
        """Probabilities [heads, tokens, tokens] of every sequence, as many of its heads at a time as `ENTRIES` allows."""
        heads, tokens = self.query.shape[1:3]
        share = heads // self.key.shape[1]  # query heads that read one key head
        for sequence in range(len(self.query)):
            for group in torch.arange(heads, device=self.query.device).split(max(1, ENTRIES // tokens**2)):
                query, key = self.query[sequence, group].float(), self.key[sequence, group // share].float()
                logits = query @ key.transpose(1, 2) * self.scaling
                if self.mask is not None:
                    mask = self.mask.expand(*self.query.shape[:2], *self.mask.shape[2:])[sequence, group]
                    logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
                elif self.causal:
                    logits = logits.masked_fill(torch.ones_like(logits[0], dtype=torch.bool).triu(1), -torch.inf)
                yield logits.softmax(dim=-1)


class _Noted(Exception):
    """Ends a forward pass at its attention function and carries what that was given."""

    def __init__(self, call: AttentionCall) -> None:
        super().__init__()
        self.call = call


def _note_and_end(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> None:
    scaling, causal = options.get("scaling"), options.get("is_causal")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    raise _Noted(
        AttentionCall(query, key, attention_mask, scaling, getattr(module, "is_causal", True) if causal is None else causal)
    )


class _Given(nn.Module):
    """A linear with a given weight [out, in] and the bias of the layer whose place it takes; it has none of its hooks."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.given = weight, bias

    def forward(self, inputs: Tensor) -> Tensor:
        weight, bias = self.given
        return affine(inputs, weight.to(inputs.dtype), bias)


def attention_call(block: nn.Module, paths: Sequence[str], weights: Sequence[Tensor], run: Callable[[], object]) -> AttentionCall:
    """What the block hands to its attention function when `run` runs it with `weights` [out, in] for the linears at `paths`."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    parent = block.get_submodule(paths[0].rpartition(".")[0])
    config: Any = parent.config
    with ExitStack() as restore:
        for path, weight in zip(paths, weights, strict=True):
            name, own = path.rpartition(".")[2], linear_at(block, path)
            restore.callback(setattr, parent, name, own)
            setattr(parent, name, _Given(weight, bias_of(own)))
        restore.callback(setattr, config, "_attn_implementation", config._attn_implementation)
        ALL_ATTENTION_FUNCTIONS[NAME] = _note_and_end
        restore.callback(ALL_ATTENTION_FUNCTIONS.__delitem__, NAME)
        config._attn_implementation = NAME
        try:
            run()
        except _Noted as noted:
            return noted.call
    raise TypeError(f"the attention function of {type(parent).__name__} was not reached")
