"""Models: whatever the source has becomes a folder in the layout of the Hub, safetensors only."""

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.artifacts import read_json, write_text
from secateur.errors import UserError
from stages._sources import Source

if TYPE_CHECKING:
    from pipelines.schema import DownloadRow

# Only files at the top of the repository: sub-folders hold copies of the weights in other formats.
WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors")
OTHERS = ("*.json", "tokenizer*", "*.model", "*.txt", "*.jinja")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
INDEX = "model.safetensors.index.json"


def make_model(row: "DownloadRow", source: Source, out: Path) -> None:
    """Fill `out` with config, tokenizer and safetensors weights of `row`'s model."""
    if row.reader == "gguf":
        _convert_gguf(row, source, out)
    else:
        _copy_checkpoint(source, out)


def _matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if "/" not in name and any(fnmatch(name, pattern) for pattern in patterns)]


def _copy_checkpoint(source: Source, out: Path) -> None:
    weights = _matching(source.names, WEIGHTS)
    if not weights:
        pickles = _matching(source.names, PICKLES)
        raise UserError(
            f"{source.text} has no model.safetensors{f', only {pickles[0]}' if pickles else ''}; pickled weights are "
            "not read. Convert them once with transformers (AutoModelForCausalLM.from_pretrained(NAME)"
            ".save_pretrained(DIR), the same with AutoTokenizer) and use file:DIR"
        )
    if "config.json" not in source.names:
        raise UserError(f"{source.text} has no config.json: it is not a checkpoint in the layout of the Hub")
    names = weights + [name for name in _matching(source.names, OTHERS) if not name.endswith(".bin.index.json")]
    folder = source.fetch(names)
    if INDEX in names:
        shards = set(read_json(folder / INDEX).get("weight_map", {}).values())
        if missing := sorted(shards - set(weights)):
            raise UserError(f"{source.text}: {INDEX} names {missing[0]}, which is not there")
    for name in names:
        # A copy, not a link: DVC may move an output into its cache and write-protect it there.
        shutil.copyfile(folder / name, out / name)


def _convert_gguf(row: "DownloadRow", source: Source, out: Path) -> None:
    """Dequantise a GGUF file to float32; transformers knows the format, its tensor names and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    names = row.files or [name for name in source.names if name.endswith(".gguf")]
    if len(names) != 1 or names[0] not in source.names:
        raise UserError(f"reader gguf needs exactly one file of {source.text}, files is {names}")
    folder, name = (source.fetch(names) / names[0]).parent, Path(names[0]).name
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # The weights are plain numbers now; what the loader left behind would make save_pretrained refuse to write them.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(out)
    for path in sorted(out.glob("*.json")):
        _forget_location(path)


def _forget_location(path: Path) -> None:
    """Drop the entries in which transformers notes what and how a model was loaded."""
    value = read_json(path)
    for key in ("_name_or_path", "_model_name_or_path", "name_or_path", "gguf_file", "is_local", "local_files_only"):
        value.pop(key, None)
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
