"""All of a text in blocks of one length: what language models are fine-tuned on."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from secateur.errors import UserError

MAP_BATCH = 1000  # texts whose tokens are joined before they are cut


def pack(texts: Sequence[str], encode: Callable[[str], list[int]], length: int, blocks: int | None = None) -> Tensor:
    """int32 [n, length]: the first `blocks` blocks (None: all) of the texts, each encoded with its special tokens, joined in
    groups of 1000 texts, and cut; what is left of a group after its last whole block is dropped. Fewer blocks than asked for are
    returned as they are; not a single one is a `UserError`.

    The recipe of Wanda's, D2Prune's and OWL's LoRA runs.
    """
    found: list[Tensor] = []
    longest = 0
    for stream in _streams(texts, encode):
        longest = max(longest, len(stream))
        count = len(stream) // length
        found += torch.tensor(stream[: count * length], dtype=torch.int32).view(count, length).unbind()
        if blocks is not None and len(found) >= blocks:
            break
    if not found:
        raise UserError(
            f"the corpus is shorter than one block of {length} tokens: {len(texts)} texts, at most {longest} tokens in a group "
            f"of {MAP_BATCH}; use shorter blocks or more text"
        )
    return torch.stack(found[:blocks])


def _streams(texts: Sequence[str], encode: Callable[[str], list[int]]) -> Iterator[list[int]]:
    for start in range(0, len(texts), MAP_BATCH):
        yield [token for text in texts[start : start + MAP_BATCH] for token in encode(text)]


def sample_packed(texts: Sequence[str], encode: Callable[[str], list[int]], length: int, samples: int, seed: int) -> Tensor:
    """`pack` as a sampler of calibration windows: the first `samples` blocks. Nothing is drawn, so `seed` decides nothing."""
    return pack(texts, encode, length, samples)
