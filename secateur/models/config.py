"""Configurations with everything in them: what `config.json` leaves out has its family's default."""

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from secateur.artifacts import write_text
from secateur.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Config = Mapping[str, Any]

# Entries about the folder that a configuration came from, or about the machine.
PLACE = ("auto_map", "_name_or_path", "_attn_implementation", "attn_implementation")
# Code that would have to be run, and kernels: which of them computes attention is this machine's business, not the checkpoint's.
DROPPED = ("auto_map", "_attn_implementation", "attn_implementation", "_attn_implementation_internal", "experts_implementation")


def transformers_config(config: Config, where: Path | str) -> "PreTrainedConfig":
    """What transformers makes of the parsed `config.json` of the folder `where`; what it does not accept is a `UserError`.

    transformers reads a copy without the entries that name code, so that nothing beside the original can be looked at or run.
    """
    from transformers import CONFIG_MAPPING, AutoConfig, __version__

    if config["model_type"] not in CONFIG_MAPPING:
        raise UserError(f"{where}: transformers {__version__} knows no model_type {config['model_type']!r}; a newer one may")
    with tempfile.TemporaryDirectory() as folder, refusing(f"{where}: transformers does not accept config.json"):
        plain = {key: value for key, value in config.items() if key not in DROPPED}
        Path(folder, "config.json").write_text(json.dumps(plain), encoding="utf-8")
        made = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    made.name_or_path = ""
    return made


def with_defaults(config: Config, needed: Iterable[str]) -> Config:
    """A parsed `config.json` with at least the keys `needed`. transformers takes seconds to import, so it is asked only for a
    configuration that leaves one of them out."""
    if all(key in config for key in needed):
        return config
    return {**transformers_config(config, "the model").to_dict(), "model_type": config["model_type"]}


def write_config(file: Path, config: Mapping[str, Any], architecture: str, dtype: str | None) -> None:
    """A checkpoint's `config.json` for a copy of it: as it was, so that older programs find what they look for, less what is of
    its former place (code beside it, kernels), with the name of the class that loads it, and `dtype` where that is new."""
    plain = {key: value for key, value in config.items() if key not in PLACE}
    plain["architectures"] = [architecture]
    if dtype is not None:
        plain["dtype" if "dtype" in plain or "torch_dtype" not in plain else "torch_dtype"] = dtype
    write_text(file, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Turn whatever other code raises inside into a `UserError` of one line that begins with `what`.

    For code that a model's own files drive, such as its configuration and its tokenizer: each family fails in ways of its own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = re.split(r"\n(?:frame #|Exception raised from)", str(error))[0]  # without the frames of torch's C++ code
        reason = shorten(" ".join(said.split()), 300, placeholder=" ...")
        raise UserError(f"{what}: {type(error).__name__}{f': {reason}' if reason else ''}") from error
