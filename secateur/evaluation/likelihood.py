"""Log-likelihoods of tokens under a causal language model, a few rows of logits at a time.

With a vocabulary of 50k to 128k tokens the output layer and its softmax cost as much as several blocks, and a full
logits tensor ([2048, 128k] in fp32 is 1 GB, its softmax another) is the largest object of an evaluation. So the blocks
run once, and the output layer runs on a few rows at a time.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS = 128  # positions whose logits exist at a time: 64 MB of fp32 at a vocabulary of 128k


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target, in nats and fp32: logits [n, V], targets [n] -> [n]."""
    return cross_entropy(logits.float(), targets, reduction="none")


def output_layer(model: "PreTrainedModel") -> Callable[[Tensor], Tensor]:
    """The layer that turns final hidden states [n, d] into the model's own logits [n, V].

    A few tokens are sent through the model to check that nothing happens to the logits after that layer (Gemma-2 caps
    them, Granite scales them); such a model is a `UserError`, because its likelihoods would be silently wrong.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(f"{type(model).__name__} has no output layer; expected a causal language model")
    with torch.inference_mode():
        probe = torch.linspace(0, model.config.vocab_size - 1, 8, device=model.device).long()[None]
        own = model(probe, use_cache=False).logits
        ours = head(model.base_model(probe, use_cache=False).last_hidden_state)
    if (own - ours).abs().max() > 0.01 * own.abs().max():
        raise UserError(f"{type(model).__name__} changes its logits after the output layer, which is not supported")
    return head


def overflow(what: str, dtype: torch.dtype) -> UserError:
    """The error for a result that is not finite, of a model whose weights all are."""
    name = str(dtype).removeprefix("torch.")
    remedy = "prune it less, or train it at a lower rate" if dtype == torch.float32 else "evaluate it in float32"
    return UserError(f"{what}, although every weight is finite: the model overflows {name}; {remedy}")


def hidden_nll(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """`token_nll` from hidden states: hidden [n, d], targets [n] -> [n] fp32, `ROWS` rows of logits at a time."""
    parts = zip(hidden.split(ROWS), targets.split(ROWS), strict=True)
    return torch.cat([token_nll(head(rows), wanted) for rows, wanted in parts])
