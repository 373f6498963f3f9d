"""Models with what a fine-tuning made of them: adapters attached, or merged under the mask."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.artifacts import read_json, read_tensors
from secateur.errors import UserError, unknown_name
from secateur.finetune.files import ADAPTERS, SETTINGS
from secateur.finetune.merge import masked_merge
from secateur.finetune.origin import Origin
from secateur.finetune.recipes import TRAININGS, FineTuning
from secateur.masks import PrunedStore
from secateur.models.linears import linear_at, weight_of
from secateur.models.load import apply_block, assemble

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def finetuned(model: Path, pruned: Path | None, tuned: Path, mode: str, device: str = "auto") -> "PreTrainedModel":
    """The model of folder `model`, pruned by the run `pruned`, with the fine-tuning in folder `tuned`, in fp32 and eval mode."""
    origin = Origin(model, pruned)
    check(tuned, mode, origin)
    return attach(assemble(model, pruned, device), tuned, mode, origin)


def attach(whole: "PreTrainedModel", tuned: Path, mode: str, origin: Origin) -> "PreTrainedModel":
    """Put the fine-tuning in folder `tuned` into the assembled model `whole` of `origin`, in place; returns what to evaluate.

    `unmerged`: adapters beside the weights, W + (α/r)·B·A. `masked_merge` and `masked_training`: P̄ ⊙ (W + (α/r)·B·A) is the
    weight, an approximation of what was trained in the first case and exactly that in the second. `dense`: the trained survivors.
    Raises a `UserError` if `tuned` belongs to another run or was trained for another mode.
    """
    settings = check(tuned, mode, origin)
    if mode == "unmerged":
        return _beside(whole, origin, settings, read_tensors(tuned / ADAPTERS)[0])
    merge = merging(tuned, mode, origin)
    for index, block in enumerate(whole.get_submodule(origin.adapter.blocks_path).children()):
        merge(index, block)
    return whole


def merging(tuned: Path, mode: str, origin: Origin) -> Callable[[int, nn.Module], None]:
    """What puts a fine-tuning into the weights of one block of `origin`, given its number and the block, in place. Adapters of
    `unmerged` are merged too: where nothing is masked, which `check_export` sees to, that is the same weight."""
    settings = check(tuned, mode, origin)
    if mode == "dense":
        return lambda index, block: apply_block(block, index, PrunedStore(tuned))
    tensors, _ = read_tensors(tuned / ADAPTERS)

    @torch.no_grad()
    def merge(index: int, block: nn.Module) -> None:
        masks = origin.block_masks(index, settings.targets)
        for path in settings.targets:
            weight, name = weight_of(linear_at(block, path)), origin.name(index, path)
            down, up = (tensors[f"base_model.model.{name}.lora_{part}.weight"].to(weight.device) for part in "AB")
            pruned = masks[name].to(weight.device) if name in masks else torch.zeros_like(weight, dtype=torch.bool)
            weight.copy_(masked_merge(weight.float(), down, up, settings.scale, pruned))

    return merge


def check(tuned: Path, mode: str, origin: Origin) -> FineTuning:
    """The settings of a fine-tuning that belongs to this model and run and was trained for this mode; else a `UserError`."""
    record = _record(tuned)
    settings = FineTuning(**record["recipe"])
    if mode not in TRAININGS:
        raise unknown_name("merge mode", mode, TRAININGS)
    if TRAININGS[mode] != settings.train:
        fitting = " or ".join(name for name, training in TRAININGS.items() if training == settings.train)
        raise UserError(f"merge mode {mode!r}: {tuned} was trained as {settings.train}, which allows {fitting}")
    for part, digest in origin.digests.items():
        if record["origin"][part] != digest:
            here = origin.model if part == "model" else origin.pruned or "the dense model"
            raise UserError(f"{tuned} was fine-tuned for another {part} than {here}: use the one that it was trained on")
    return settings


def check_export(tuned: Path, mode: str) -> None:
    """Raise a `UserError` if a checkpoint with plain weights cannot have this mode, because merging would fill zeros."""
    if mode == "unmerged" and _record(tuned)["origin"]["masks"]:
        raise UserError(
            f"merge mode 'unmerged' of {tuned} would fill the run's zeros, since W + (α/r)·B·A is dense: use masked_merge, "
            "or train under the mask for masked_training"
        )


def _record(tuned: Path) -> dict[str, Any]:
    record = read_json(tuned / SETTINGS)
    if "recipe" not in record or "origin" not in record:
        raise UserError(f"{tuned} holds no fine-tuning")
    return record


def _beside(whole: "PreTrainedModel", origin: Origin, settings: FineTuning, tensors: dict[str, Tensor]) -> "PreTrainedModel":
    from secateur.packages import need

    need("fine-tuning", "peft")
    from peft import set_peft_model_state_dict

    from secateur.finetune.masked import add_adapters

    adapted = add_adapters(whole, origin, settings.targets, settings)
    set_peft_model_state_dict(adapted, tensors)
    return adapted.get_base_model().eval()  # pyright: ignore[reportReturnType]  # the model itself, its linears wrapped
