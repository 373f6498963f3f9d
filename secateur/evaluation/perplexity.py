"""Perplexity of a text in windows that do not overlap: exp of the mean negative log-likelihood.

Protocol A (Wanda, SparseGPT, OWL, DLP, D2Prune, FLAP): the mean over windows of each window's mean loss, every window
weighted with its length L. Protocol B (LLM-Pruner, GOA): the mean over all L - 1 predicted tokens of all windows; their
tables use L = 128 for LLaMA and 1024 for GPT-2. For one L the two are equal; they differ in the L, joiner and split
that belong to them, which the caller chooses. Never compare perplexities with different L.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from secateur.errors import UserError, unknown_name
from secateur.evaluation.likelihood import hidden_nll, output_layer, overflow, token_nll
from secateur.finite import check_weights
from secateur.tokens import check_range, check_tokens, embedding_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROTOCOLS = ("A", "B")


def windows(ids: Tensor, length: int, limit: int | None = None) -> Tensor:
    """Cut ids [n] into windows [k, length] from the start; the tail is dropped, at most `limit` windows are kept."""
    if length < 2:
        raise UserError(f"a window of {length} tokens predicts nothing; the length must be at least 2")
    if limit is not None and limit < 1:
        raise UserError(f"windows is {limit}; it must be at least 1, or null for all")
    if len(ids) < length:
        raise UserError(f"the text has {len(ids)} tokens, too few for one window of {length}")
    count = len(ids) // length
    return ids[: count * length].reshape(count, length)[:limit]


def window_nll(logits: Tensor, tokens: Tensor) -> float:
    """Mean loss (nats, fp32) of one window: logits [L, V], where row t predicts token t + 1, and tokens [L].

    The window's first token is never predicted, so the mean is over L - 1 tokens.
    """
    return token_nll(logits[:-1], tokens[1:]).double().mean().item()


def aggregate(nlls: Sequence[float], length: int, protocol: str = "A") -> dict[str, float | None]:
    """Perplexity, mean loss and its standard error from the mean loss of each window of `length` tokens.

    The standard error is that of a mean over independent windows (unbiased variance); one window has none (`None`).
    """
    if protocol not in PROTOCOLS:
        raise unknown_name("perplexity protocol", protocol, PROTOCOLS)
    for index, nll in enumerate(nlls):
        if not nll < 700:  # exp overflows a float beyond 709; also true of a NaN
            raise UserError(f"the mean loss of window {index} is {nll}: the model overflows; evaluate it in fp32")
    weight = length if protocol == "A" else length - 1
    mean = math.fsum(nll * weight for nll in nlls) / (len(nlls) * weight)
    spread = math.fsum((nll - mean) ** 2 for nll in nlls)
    error = math.sqrt(spread / (len(nlls) - 1) / len(nlls)) if len(nlls) > 1 else None
    return {"perplexity": math.exp(mean), "mean_nll": mean, "nll_standard_error": error}


_windows = windows  # `perplexity` has an argument of that name


def perplexity(
    model: "PreTrainedModel",
    ids: Tensor,
    length: int,
    windows: int | None = None,
    protocol: str = "A",
    progress: bool = False,
) -> dict[str, Any]:
    """Perplexity of `ids` [n] (one tokenised text) in windows of `length`; `windows` limits their number.

    Windows go through the model one by one, so the result does not depend on a batch size. Raises `UserError` if the
    text is shorter than one window or the window longer than the model's context, if a weight is not finite (it is named), and if
    an id is not one of the model's.
    """
    check_tokens(ids, what="ids", dimensions=1)
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and length > context:
        raise UserError(f"windows of {length} tokens do not fit the model's context of {context}")
    cut = _windows(ids, length, windows)
    check_range(ids[: cut.numel()], embedding_rows(model), "ids")
    check_weights(model)
    head = output_layer(model)
    nlls = []
    with torch.inference_mode():
        for tokens in tqdm(cut.long(), desc="perplexity", unit="window", disable=not progress):
            tokens = tokens.to(model.device)
            hidden = model.base_model(tokens[None], use_cache=False).last_hidden_state[0]
            nlls.append(hidden_nll(head, hidden[:-1], tokens[1:]).double().mean().item())
            if not math.isfinite(nlls[-1]):
                raise overflow(f"the mean loss of window {len(nlls) - 1} is {nlls[-1]}", hidden.dtype)
    return {
        "protocol": protocol,
        "length": length,
        "windows": len(cut),
        "windows_limit": windows,
        "windows_available": len(ids) // length,
        "tokens": len(cut) * (length - 1),
    } | aggregate(nlls, length, protocol)


def read_text(corpus: Path, split: str, joiner: str, documents: int | None = None) -> str:
    """The rows of `<corpus>/<split>.parquet` as one text, unmodified, empty rows too; only the first `documents`."""
    from pyarrow import parquet

    path = corpus / f"{split}.parquet"
    if not path.is_file():
        raise unknown_name(f"split of {corpus}", split, (file.stem for file in corpus.glob("*.parquet")))
    return joiner.join(parquet.read_table(path, columns=["text"])["text"].to_pylist()[:documents])


def tokenize(tokenizer: "PreTrainedTokenizerBase", text: str) -> Tensor:
    """Token ids int64 [n] of the whole text with the tokenizer's default special tokens: one BOS at its very start."""
    return torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.long)
