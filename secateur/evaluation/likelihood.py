"""Log-likelihoods of tokens under a causal language model: one forward pass per token, logits only where they are read.

With a vocabulary of 50k to 128k tokens the output layer and its softmax cost as much as several blocks, and a full
logits tensor ([2048, 128k] in fp32 is 1 GB, its softmax another) is the largest object of an evaluation. So the blocks
run once, and the output layer runs on a few rows at a time, only for positions whose prediction is asked for.
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from secateur.errors import UserError

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel

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


def hidden_nll(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """`token_nll` from hidden states: hidden [n, d], targets [n] -> [n] fp32, `ROWS` rows of logits at a time."""
    parts = zip(hidden.split(ROWS), targets.split(ROWS), strict=True)
    return torch.cat([token_nll(head(rows), wanted) for rows, wanted in parts])


def continuation_likelihoods(
    model: "PreTrainedModel",
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    max_length: int,
    batch_size: int = 8,
    advance: Callable[[int], object] = lambda done: None,
) -> list[float]:
    """Log-likelihood (nats) of each continuation given its context, both as token ids, in the order of `pairs`.

    The answers of a multiple-choice question share their context, which is read only once: `batch_size` contexts of
    similar length run together, then their continuations on the same key-value cache. A context that is too long for
    `max_length` is cut from the left, as lm-eval does. `advance` is called with the number of new scores.
    """
    contexts: dict[tuple[int, ...], list[int]] = {}
    for index, (context, continuation) in enumerate(pairs):
        room = max_length + 1 - len(continuation)  # the last token is only predicted, never read
        if not context or not continuation or room < 1:
            raise UserError(
                f"cannot score {len(continuation)} tokens after {len(context)}: both parts need one token, "
                f"and the continuation has to fit the model's {max_length}"
            )
        contexts.setdefault(tuple(context[-room:]), []).append(index)

    def size(context: tuple[int, ...]) -> int:
        return len(context) + max(len(pairs[index][1]) for index in contexts[context])

    head = output_layer(model)
    scores = [0.0] * len(pairs)
    longest_first = sorted(contexts, key=lambda context: (-size(context), context))  # too little memory shows at once
    for start in range(0, len(longest_first), batch_size):
        batch = longest_first[start : start + batch_size]
        members = [(row, index) for row, context in enumerate(batch) for index in contexts[context]]
        with torch.inference_mode():
            found = _score_batch(model, head, batch, [(row, pairs[index][1]) for row, index in members])
        for (_, index), score in zip(members, found, strict=True):
            scores[index] = score
        advance(len(members))
    return scores


def _score_batch(
    model: "PreTrainedModel",
    head: Callable[[Tensor], Tensor],
    contexts: list[tuple[int, ...]],
    members: list[tuple[int, Sequence[int]]],
) -> list[float]:
    """Scores of the continuations in `members`, each with the row of its context in `contexts`.

    Contexts are padded on the left, where the mask hides the padding and every context ends in the last column.
    Continuations are padded on the right, where causality hides it; as many run at once as there are contexts, the
    longest together, so that there is little of it.
    """

    def tensor(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=model.device)

    lengths = tensor([len(context) for context in contexts])
    ids = pad_sequence([tensor(context) for context in contexts], batch_first=True, padding_side="left")
    positions = torch.arange(ids.shape[1], device=ids.device) - (ids.shape[1] - lengths)[:, None]
    mask = (positions >= 0).long()
    longer = [number for number, (_, continuation) in enumerate(members) if len(continuation) > 1]
    read = model.base_model(ids, attention_mask=mask, position_ids=positions.clamp(min=0), use_cache=bool(longer))
    # The context's last position predicts every first token; a one-token answer (BoolQ, RTE) ends here.
    last = read.last_hidden_state[tensor([row for row, _ in members]), -1]
    scores = -hidden_nll(head, last, tensor([continuation[0] for _, continuation in members])).double()

    longer.sort(key=lambda number: -len(members[number][1]))
    for start in range(0, len(longer), len(contexts)):
        part = longer[start : start + len(contexts)]
        rows = tensor([members[number][0] for number in part])
        wanted = [tensor(members[number][1]) for number in part]
        inputs = pad_sequence([tokens[:-1] for tokens in wanted], batch_first=True)
        hidden = model.base_model(
            inputs,
            attention_mask=torch.cat([mask[rows], torch.ones_like(inputs)], dim=1),
            position_ids=lengths[rows][:, None] + torch.arange(inputs.shape[1], device=inputs.device),
            past_key_values=_select(read.past_key_values, rows),
            use_cache=True,
        ).last_hidden_state
        states = torch.cat([row[: len(tokens) - 1] for row, tokens in zip(hidden, wanted, strict=True)])
        nll = hidden_nll(head, states, torch.cat([tokens[1:] for tokens in wanted])).double()
        for number, own in zip(part, nll.split([len(tokens) - 1 for tokens in wanted]), strict=True):
            scores[number] -= own.sum()
    return scores.tolist()


def _select(cache: "Cache", rows: Tensor) -> "Cache":
    """A cache with the given rows of `cache`, which stays as it is: layers replace their tensors, never write to them."""
    chosen = copy(cache)
    chosen.layers = [copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows)
    return chosen
