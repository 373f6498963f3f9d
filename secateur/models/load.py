"""Whole models: dense, or put together from dense weights, masks and surviving values."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from secateur import determinism
from secateur.artifacts import read_json
from secateur.checkpoint import GENERATION, read_config
from secateur.errors import UserError
from secateur.masks import PrunedStore
from secateur.models.adapters import adapter_for
from secateur.models.config import refusing
from secateur.models.linears import linear_at, weight_of
from secateur.models.skeleton import Skeleton
from secateur.models.tokenizer import has_tokenizer, load_tokenizer, own_code

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def assemble(
    model: Path | str, pruned: Path | str | None = None, device: str = "auto", dtype: torch.dtype = torch.float32
) -> "PreTrainedModel":
    """The model of folder `model` in eval mode, in fp32 unless `dtype` says otherwise, with the masks and values of the run
    folder `pruned` written in. Its skeleton is filled tensor by tensor, so memory holds the model and little else.

    A checkpoint of which anything is missing, or that can be read in two ways, is a `UserError`: nothing is made up.
    """
    folder = Path(model)
    adapter = None if pruned is None else adapter_for(read_config(folder))
    skeleton = Skeleton(folder, determinism.device(device), dtype)
    skeleton.fill(skeleton.reader.by_size())
    skeleton.complete("")
    if (settings := generation_config(folder)) is not None:
        skeleton.model.generation_config = settings
    if pruned is not None and adapter is not None:
        apply_run(skeleton.model.get_submodule(adapter.blocks_path), PrunedStore(Path(pruned)))
    return skeleton.model


def generation_config(folder: Path) -> "GenerationConfig | None":
    """How a model of this folder generates by default, if that is stated; what transformers does not accept is a `UserError`."""
    from transformers import GenerationConfig

    if not (folder / GENERATION).is_file():
        return None
    settings = read_json(folder / GENERATION)
    if not isinstance(settings, dict):
        raise UserError(f"{folder / GENERATION} is a {type(settings).__name__}: must be a mapping of settings; mend or remove it")
    with refusing(f"transformers does not accept {folder / GENERATION}; mend or remove it"):
        return GenerationConfig.from_dict(settings)


def apply_run(blocks: nn.Module, store: PrunedStore) -> None:
    """Write a stored run into the blocks of a model; another model's run is a `UserError`."""
    check_run(blocks, store)
    for index, block in enumerate(blocks.children()):
        apply_block(block, index, store)


def check_run(blocks: nn.Module, store: PrunedStore) -> None:
    """A `UserError` unless the stored run has the number of blocks and the shapes of this model's (on any device)."""
    count = len(list(blocks.children()))
    if not (store.folder / "masks").is_dir():
        raise UserError(
            f"{store.folder} {'holds no masks: it is not a pruned run' if store.folder.is_dir() else 'does not exist'}"
        )
    if store.blocks != count:
        raise UserError(
            f"{store.folder} holds {store.blocks} pruned blocks, the model has {count}: another model's run, or an unfinished one"
        )
    for index, block in enumerate(blocks.children()):
        for path, shape in store.shapes(index).items():
            weight = weight_of(linear_at(block, path))
            if weight.shape != shape:
                raise UserError(f"{store.folder}: block {index}, {path} is {tuple(shape)}, the model's {tuple(weight.shape)}")


def apply_block(block: nn.Module, index: int, store: PrunedStore) -> None:
    """Write what a run stored of block `index` into it."""
    for path, linear in store.read(index).items():
        linear.apply(weight_of(linear_at(block, path)))


def load(model: Path | str, device: str = "auto") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """A dense model and its tokenizer."""
    return assemble(model, device=device), load_tokenizer(model)


def loads_elsewhere(folder: Path, kind: type) -> None:
    """Load a checkpoint once as others do, with stock `from_pretrained`, and its tokenizer; anything amiss is a `UserError`."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with refusing("stock from_pretrained does not load the result"):
            _, info = kind.from_pretrained(folder, local_files_only=True, dtype="auto", output_loading_info=True)
    finally:
        if bars:
            logging.enable_progress_bar()
    for what, found in info.items():
        if found:
            raise UserError(f"stock from_pretrained reports {what.replace('_', ' ')}: {', '.join(map(str, sorted(found)))}")
    if has_tokenizer(folder) and not own_code(folder):
        load_tokenizer(folder)
