"""Token ids as every entry takes them: a tensor of ids that the model has embedding rows for.

Anything else is refused by value and place before any work: at the embedding it would end in an index error, or as other text.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHAPES = {1: "[n]", 2: "[sequences, length]"}


def embedding_rows(model: "PreTrainedModel") -> int:
    """How many tokens a model knows."""
    rows: Any = model.get_input_embeddings().weight
    return len(rows)


def check_tokens(tokens: object, rows: int | None = None, *, what: str = "tokens", dimensions: int = 2) -> None:
    """Refuse what is not a tensor of token ids [sequences, length] ([n] with `dimensions=1`), or has an id outside
    [0, `rows`). A tokenizer's answer is refused too: its `input_ids` are wanted."""
    ids = check_shape(tokens, what=what, dimensions=dimensions)
    if not ids.numel():
        raise UserError(f"{what} of shape {tuple(ids.shape)} are empty: at least one token is needed")
    check_range(ids, rows, what)


def check_shape(tokens: object, *, what: str = "tokens", dimensions: int = 2) -> Tensor:
    """`tokens`, if they are a tensor of integers with so many dimensions."""
    wanted = f"must be a tensor of token ids {SHAPES[dimensions]}, of integers"
    if not isinstance(tokens, Tensor):
        raise UserError(f"{what} are {_named(tokens)}: {wanted}; {_remedy(tokens)}")
    if tokens.is_meta or tokens.layout != torch.strided:
        raise UserError(f"{what} are {'on the meta device' if tokens.is_meta else 'sparse'}: {wanted}, dense and in memory")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise UserError(f"{what} are {str(tokens.dtype).removeprefix('torch.')}: {wanted}, such as int64")
    if tokens.dim() != dimensions:
        hint = {(1, 2): f"; a single sequence is {what}[None]", (2, 1): f"; one text of several is {what}[0]"}
        raise UserError(f"{what} of shape {tuple(tokens.shape)}: {wanted}{hint.get((tokens.dim(), dimensions), '')}")
    return tokens


def check_range(tokens: Tensor, rows: int | None, what: str, allowed: str = "labels may hold -100, tokens may not") -> None:
    """Refuse ids below zero and, where the number of embedding `rows` is known, beyond the last one."""
    ids = tokens.long()  # unsigned types know few operations
    if int(ids.min()) < 0:
        where, value = _first(ids, ids < 0)
        raise UserError(f"{what}: the id {value} {where} is negative: must be {_span(rows)} ({allowed})")
    if rows is not None and int(ids.max()) >= rows:
        where, value = _first(ids, ids >= rows)
        raise UserError(
            f"{what}: the id {value} {where} has no row in the model's embedding, must be {_span(rows)}: the tokenizer knows "
            "more tokens than the model has embedding rows; use the model's own tokenizer, or a text without the added tokens"
        )


def _span(rows: int | None) -> str:
    return "at least 0" if rows is None else f"from 0 to {rows - 1}"


def _first(ids: Tensor, wrong: Tensor) -> tuple[str, int]:
    """Where the first wrong id stands, and the id."""
    *sequence, position = wrong.nonzero()[0].tolist()
    return "".join(f"in sequence {number} " for number in sequence) + f"at position {position}", int(ids[(*sequence, position)])


def _named(tokens: object) -> str:
    kind = type(tokens)
    return "a numpy array" if _is_numpy(tokens) else f"{'an' if kind.__name__[:1].lower() in 'aeiou' else 'a'} {kind.__name__}"


def _remedy(tokens: object) -> str:
    if isinstance(tokens, str):
        return "tokenise the text first"
    if isinstance(tokens, Mapping):
        return "pass its input_ids, as a tensor (return_tensors='pt')" if "input_ids" in tokens else "pass the ids themselves"
    if _is_numpy(tokens):
        return "torch.from_numpy makes one"
    return "torch.tensor makes one" if isinstance(tokens, list | tuple) else "such as secateur.sample returns"


def _is_numpy(tokens: object) -> bool:
    return type(tokens).__module__ == "numpy"
