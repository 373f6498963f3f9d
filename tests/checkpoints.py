"""Checkpoint folders to spoil: a tiny model with a tokenizer, and small tools that change its files."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]
GONE = object()


def edit_json(file: Path, **changes: Any) -> None:
    """Set entries of a JSON file; `GONE` removes one."""
    value = json.loads(file.read_text())
    value = {key: entry for key, entry in (value | changes).items() if entry is not GONE}
    file.write_text(json.dumps(value))


def edit_tensors(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    """Rewrite `model.safetensors` with what `change` makes of its tensors."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(
        {name: tensor.contiguous() for name, tensor in change(tensors).items()}, folder / "model.safetensors", {"format": "pt"}
    )


def drop(*names: str) -> Callable[[Tensors], Tensors]:
    """Without the tensors whose names contain one of `names`."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not any(part in name for part in names)}


def rename(old: str, new: str) -> Callable[[Tensors], Tensors]:
    """`old` in every name replaced by `new`."""
    return lambda tensors: {name.replace(old, new): tensor for name, tensor in tensors.items()}


def prefix(text: str) -> Callable[[Tensors], Tensors]:
    """Before every name."""
    return lambda tensors: {f"{text}{name}": tensor for name, tensor in tensors.items()}


def add(**tensors: Tensor) -> Callable[[Tensors], Tensors]:
    """More tensors; `__` in a name stands for a dot."""
    return lambda found: found | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


def shard(folder: Path, files: int = 3) -> Path:
    """Divide `model.safetensors` into shards with an index; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    table = {}
    for number in range(files):
        part = dict(list(sorted(tensors.items()))[number::files])
        name = f"part-{number}.safetensors"
        save_file(part, folder / name, {"format": "pt"})
        table |= dict.fromkeys(part, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))
    return index


def add_tokenizer(folder: Path, words: int = 90) -> None:
    """A word-level tokenizer w0, w1, ... with <s> and </s>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number + 3 for number in range(words)}
    made = Tokenizer(models.WordLevel(vocabulary, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)


def copy_of(model: Path, folder: Path) -> Path:
    """A copy of a checkpoint folder that may be spoiled, with a tokenizer and without checksums."""
    shutil.copytree(model, folder)
    (folder / "SHA256SUMS").unlink(missing_ok=True)
    add_tokenizer(folder)
    return folder


def whole_logits(model: Any, tokens: Tensor) -> Tensor:
    """Logits of a whole model."""
    with torch.no_grad():
        return model(tokens.long(), use_cache=False).logits


def streamed_logits(folder: Path, tokens: Tensor) -> Tensor:
    """Logits of the same model, block by block."""
    from secateur.models.stream import StreamedModel, run_block

    stream = StreamedModel(folder, torch.device("cpu"))
    hidden, arguments = stream.embed(tokens, len(tokens))
    for index in range(len(stream)):
        with stream.block(index) as block, torch.no_grad():
            hidden = run_block(block, hidden, arguments[len(tokens)][index])
    return stream.head(tokens, hidden)
