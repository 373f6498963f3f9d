"""Tokenizers of model folders."""

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# One of these holds the vocabulary; without any, transformers would build an empty tokenizer.
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


def load_tokenizer(model: Path | str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model folder."""
    from transformers import AutoTokenizer

    if not any((Path(model) / name).is_file() for name in FILES):
        raise UserError(f"{model} has no tokenizer ({', '.join(FILES)}): put the model's tokenizer files beside its weights")
    try:
        return AutoTokenizer.from_pretrained(model, local_files_only=True)
    except Exception as error:  # the tokenizers' own parser raises plain exceptions
        raise UserError(f"the tokenizer in {model} cannot be read: {error}") from error
