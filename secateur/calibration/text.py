"""The samplers of the published codes, draw for draw: Python's `random`, seeded just before the loop.

Each pure `draw_*` works on token counts alone, so it can be tested without text; each `sample_*` turns texts into tokens
[samples, length] with it. A window never starts at the last possible place (the published off-by-one is part of the draw).
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from secateur.calibration import SAMPLERS
from secateur.errors import UserError
from secateur.examples import Examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encode = Callable[[str], list[int]]


class Draw(NamedTuple):
    """One window: which document, where it starts, and how many documents were drawn until one was long enough."""

    document: int
    start: int
    tries: int


def draw_documents(token_count: Callable[[int], int], documents: int, length: int, samples: int, seed: int) -> list[Draw]:
    """Wanda's and SparseGPT's C4 sampler: uniform documents until one is STRICTLY longer than `length` tokens, then a uniform
    start in [0, count - length - 1]. Documents may repeat. 10 · `documents` rejections in a row raise a `UserError`."""
    generator = random.Random(seed)
    draws = []
    for _ in range(samples):
        for tries in range(1, 10 * documents + 1):
            document = generator.randint(0, documents - 1)
            if (count := token_count(document)) > length:
                draws.append(Draw(document, generator.randint(0, count - length - 1), tries))
                break
        else:
            raise _too_short(documents, length)
    return draws


def draw_distinct(token_count: Callable[[int], int], documents: int, length: int, samples: int, seed: int) -> list[Draw]:
    """LLM-Pruner's BookCorpus sampler: a document of at least `length` tokens that was not used before, any start."""
    generator = random.Random(seed)
    draws: list[Draw] = []
    used: set[int] = set()
    for _ in range(samples):
        for tries in range(1, 10 * documents + 1):
            document = generator.randint(0, documents - 1)
            if document not in used and (count := token_count(document)) >= length:
                draws.append(Draw(document, generator.randint(0, count - length), tries))
                used.add(document)
                break
        else:
            raise _too_short(documents, length)
    return draws


def draw_stream(tokens: int, length: int, samples: int, seed: int) -> list[int]:
    """The WikiText-2 and PTB sampler: starts of windows in one long text of `tokens` tokens, in [0, tokens - length - 1]."""
    if tokens <= length:
        raise UserError(f"the corpus has {tokens} tokens: a window of {length} needs at least {length + 1}")
    generator = random.Random(seed)
    return [generator.randint(0, tokens - length - 1) for _ in range(samples)]


def _too_short(documents: int, length: int) -> UserError:
    return UserError(
        f"{10 * documents} draws in a row found no unused document longer than {length} tokens among {documents}: "
        "use shorter windows, fewer samples or the sampler 'stream'"
    )


def _sample(
    draw: Callable[..., list[Draw]], texts: Sequence[str], encode: Encode, length: int, samples: int, seed: int
) -> Tensor:
    @cache
    def ids(document: int) -> list[int]:
        return encode(texts[document])

    draws = draw(lambda document: len(ids(document)), len(texts), length, samples, seed)
    windows = [ids(draw.document)[draw.start : draw.start + length] for draw in draws]
    return torch.tensor(windows, dtype=torch.int32)


def sample_documents(texts: Sequence[str], encode: Encode, length: int, samples: int, seed: int) -> Tensor:
    """Windows of single documents (C4 and any corpus of documents)."""
    return _sample(draw_documents, texts, encode, length, samples, seed)


def sample_distinct_documents(texts: Sequence[str], encode: Encode, length: int, samples: int, seed: int) -> Tensor:
    """Windows of single documents, each used at most once (BookCorpus)."""
    return _sample(draw_distinct, texts, encode, length, samples, seed)


def sample_stream(texts: Sequence[str], encode: Encode, length: int, samples: int, seed: int) -> Tensor:
    """Windows of all texts joined by one space and tokenised once (WikiText-2, PTB)."""
    ids = encode(" ".join(texts))
    windows = [ids[start : start + length] for start in draw_stream(len(ids), length, samples, seed)]
    return torch.tensor(windows, dtype=torch.int32)


@dataclass(frozen=True)
class Encoder:
    """What turns a text into the tokens of a tokenizer, special tokens included."""

    tokenizer: "PreTrainedTokenizerBase"

    def __call__(self, text: str) -> list[int]:
        return self.tokenizer(text, verbose=False).input_ids


def sample(
    texts: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    samples: int = 128,
    length: int = 2048,
    seed: int = 0,
    sampler: str = "documents",
) -> Tensor:
    """Calibration tokens, int32 [samples, length], drawn from `texts` as the published codes draw them."""
    return sample_examples(texts, tokenizer, samples=samples, length=length, seed=seed, sampler=sampler).windows()


def _check(texts: Sequence[str], samples: int, length: int) -> None:
    """Refuse one text in the place of several: as a sequence of strings it is one of letters, and each would be a document."""
    if isinstance(texts, str | bytes):
        raise UserError(f"texts are one {type(texts).__name__} of length {len(texts)}: must be a list of strings, one a document")
    if isinstance(texts, Mapping) or not (hasattr(texts, "__len__") and hasattr(texts, "__getitem__")):
        raise UserError(f"texts are of the type {type(texts).__name__}: must be a list of strings, one a document")
    if not len(texts):
        raise UserError("texts are empty: at least one document is needed")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"document {number} is of the type {type(text).__name__}: texts must be a list of strings")
    for name, count in (("samples", samples), ("length", length)):
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise UserError(f"{name} {count!r}: must be a whole number, at least 1")


def sample_examples(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", *, samples: int, length: int, seed: int, sampler: str
) -> Examples:
    """What any sampler makes of `texts`, those too whose examples are padded, which `sample` refuses."""
    _check(texts, samples, length)
    return Examples.of(SAMPLERS.get(sampler)(texts, Encoder(tokenizer), length, samples, seed))
