"""Tokenizers of model folders."""

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.artifacts import read_json
from secateur.checkpoint import CONFIG
from secateur.errors import UserError
from secateur.models.config import refusing, transformers_config

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# One of these holds the vocabulary; without any, transformers would build an empty tokenizer.
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json", "sentencepiece.bpe.model")
SETTINGS = "tokenizer_config.json"


def has_tokenizer(model: Path) -> bool:
    """Whether a folder holds a vocabulary."""
    return any((model / name).is_file() for name in FILES) or any(model.glob("*.tiktoken"))


def load_tokenizer(model: Path | str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model folder. One that needs code of its own is a `UserError`: no code of a model's folder is run, and
    nobody is asked whether it may be."""
    from transformers import AutoTokenizer

    folder = Path(model)
    if not has_tokenizer(folder):
        raise UserError(f"{folder} has no tokenizer ({', '.join(FILES)}): put the model's tokenizer files beside its weights")
    if code := own_code(folder):
        raise UserError(
            f"the tokenizer in {folder} needs code of its own ({code}), which is never run: save it as a tokenizer.json"
        )
    config = transformers_config(read_json(folder / CONFIG), folder) if (folder / CONFIG).is_file() else None
    with refusing(f"the tokenizer in {folder} cannot be read"):
        return AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False)


def own_code(folder: Path) -> str | None:
    """The class that a tokenizer's settings name as code of its own, where transformers has no class of that name."""
    import transformers

    settings = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if not isinstance(settings, dict):
        raise UserError(f"{folder / SETTINGS} is a {type(settings).__name__}: must be a mapping of settings")
    code = settings.get("auto_map")
    code = code.get("AutoTokenizer") if isinstance(code, dict) else code  # older files hold the tokenizer's entry alone
    if not code or hasattr(transformers, str(settings.get("tokenizer_class"))):
        return None
    return next((name for name in ([code] if isinstance(code, str) else code) if name), None)
