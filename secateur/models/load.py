"""Whole models: dense, or put together from dense weights, masks and surviving values."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from secateur import determinism
from secateur.artifacts import read_json
from secateur.errors import UserError
from secateur.masks import PrunedStore
from secateur.models.adapters import adapter_for
from secateur.models.linears import linear_at, weight_of
from secateur.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def assemble(model: Path | str, pruned: Path | str | None = None, device: str = "auto") -> "PreTrainedModel":
    """The model of folder `model` in fp32 and eval mode, with the masks and values of the run folder `pruned` written in."""
    from transformers import AutoModelForCausalLM

    folder = Path(model)
    adapter = adapter_for(read_json(folder / "config.json"))
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, local_files_only=True)
    torch.nn.Module.to(whole.eval(), determinism.device(device))
    if pruned is not None:
        apply_run(whole.get_submodule(adapter.blocks_path), PrunedStore(Path(pruned)))
    return whole


def apply_run(blocks: torch.nn.Module, store: PrunedStore) -> None:
    """Write a stored run into the blocks of a model."""
    count = len(list(blocks.children()))
    if store.blocks != count:
        raise UserError(
            f"{store.folder} holds {store.blocks} pruned blocks, the model has {count}: another model's run, or an unfinished one"
        )
    for index, block in enumerate(blocks.children()):
        for path, linear in store.read(index).items():
            weight = weight_of(linear_at(block, path))
            if weight.shape != linear.mask.shape:
                raise UserError(
                    f"{store.folder}: block {index}, {path} is {tuple(linear.mask.shape)}, the model's {tuple(weight.shape)}"
                )
            linear.apply(weight)


def load(model: Path | str, device: str = "auto") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A dense model and its tokenizer."""
    return assemble(model, device=device), load_tokenizer(model)
