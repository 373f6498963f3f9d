"""Instruction examples in the Alpaca format (Taori et al., 2023), as LLM-Pruner trains on them."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from secateur.calibration import PADDED
from secateur.calibration.text import Encoder
from secateur.errors import UserError
from secateur.examples import IGNORED, Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAD = 0  # the published runs pad with id 0; the attention mask says what is padding, so its meaning does not matter
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)

Row = Mapping[str, str]


def prompt(row: Row) -> str:
    """Everything in front of the response; `input` may be missing or empty."""
    for field in PADDED["alpaca"]:
        if field not in row:
            raise UserError(f"an Alpaca row has no {field!r}, only {', '.join(row) or 'nothing'}")
    return (WITH_INPUT if row.get("input") else WITHOUT_INPUT).format(**row)


def alpaca(rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", cutoff: int = 256) -> Examples:
    """Prompt and response as one text with the tokenizer's special tokens, cut off after `cutoff` tokens, an end-of-text token
    behind it if there is room; labels on the response and that token only; padded on the left to the longest.

    The prompt's share is the number of its own tokens, as in the published code, even where the first token of the response
    merges with its last. Rows whose response lies behind the cutoff teach nothing and are left out (the published code keeps
    them at a loss of nothing); if none is left, a `UserError`.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-text token, which has to end every response")
    pairs = [pair for row in rows if (pair := _encode(row, tokenizer, cutoff))]
    if not pairs:
        raise UserError(f"none of {len(rows)} examples has a token of its response within the first {cutoff}")
    longest = max(len(tokens) for tokens, _ in pairs)
    shape = (len(pairs), longest)
    padded, labels = torch.full(shape, PAD, dtype=torch.int32), torch.full(shape, IGNORED, dtype=torch.int32)
    present = torch.zeros(shape, dtype=torch.bool)
    for row, (tokens, asked) in enumerate(pairs):
        first = longest - len(tokens)
        padded[row, first:] = torch.tensor(tokens, dtype=torch.int32)
        labels[row, first + asked :] = padded[row, first + asked :]
        present[row, first:] = True
    return Examples(padded, labels, present)


def _encode(row: Row, tokenizer: "PreTrainedTokenizerBase", cutoff: int) -> tuple[list[int], int] | None:
    """Tokens, and how many of them are the prompt; None if no response is among them."""
    end: Any = tokenizer.eos_token_id  # one id; transformers' own types allow lists of anything
    encode, question = Encoder(tokenizer), prompt(row)
    asked = encode(question)
    while asked and asked[-1] == end:  # of a tokenizer that ends every text with it
        asked.pop()
    tokens = encode(question + row["output"])[:cutoff]
    if len(tokens) < cutoff and tokens[-1] != end:
        tokens.append(end)
    return (tokens, len(asked)) if len(asked) < len(tokens) else None


def sample_alpaca(texts: Sequence[str], encode: Encoder, length: int, samples: int, seed: int) -> Examples:
    """`alpaca` as a sampler: the first `samples` documents (all, if there are fewer), cut off after `length` tokens. A document
    is a JSON object of texts, as a corpus with `columns` has them. Nothing is drawn, so `seed` decides nothing."""
    return alpaca([_row(number, text) for number, text in enumerate(texts[:samples])], encode.tokenizer, cutoff=length)


def _row(number: int, text: str) -> Row:
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if not isinstance(row, dict) or not all(isinstance(value, str) for value in row.values()):
        start = text if len(text) <= 40 else f"{text[:37]}..."
        raise UserError(f"document {number}: {start!r}: must be a JSON object of texts, as a corpus with columns has them")
    return row
