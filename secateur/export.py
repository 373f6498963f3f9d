"""A run, or what a fine-tuning made of it, as a plain checkpoint that any program reads: dense tensors with zeros in them."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from secateur.artifacts import write_text
from secateur.card import model_card
from secateur.checkpoint import CONFIG, companions
from secateur.errors import UserError, unknown_name
from secateur.finetune.load import check, check_export, merging
from secateur.finetune.origin import Origin
from secateur.finite import not_finite
from secateur.masks import PrunedStore
from secateur.models.adapters import adapter_for
from secateur.models.config import write_config
from secateur.models.conversion import stock_names
from secateur.models.load import apply_block, check_run, generation_config, loads_elsewhere
from secateur.models.skeleton import Skeleton
from secateur.models.tokenizer import has_tokenizer, load_tokenizer, own_code
from secateur.models.writer import ONE_FILE, SHARD, Writer
from secateur.outputs import check_output, whole_folder

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Edit = Callable[[int, nn.Module], None]
CARD = "README.md"


def export(
    model: Path,
    pruned: Path | None,
    to: Path,
    tuned: Path | None = None,
    mode: str | None = None,
    *,
    dtype: str | None = None,
    overwrite: bool = False,
    check: bool = True,
    shard: int | None = None,
    progress: bool = False,
) -> None:
    """Write the model of folder `model`, pruned by the run `pruned`, with the fine-tuning in folder `tuned` merged as `mode`
    says, to the folder `to`, for stock `from_pretrained`: weights, configuration, tokenizer, chat templates, and a model card.

    Block by block, so that memory holds a shard and a block. Every tensor keeps the type in which it is stored, unless `dtype`
    (float32, bfloat16, float16) names another for all. `shard` is the largest size of a weight file in bytes. `check` loads the
    result once with stock code, which needs memory for all of it.

    Raises a `UserError`, before anything is written, if `to` exists (unless it is an untouched export and `overwrite` is set), if
    the folders do not belong together, or if merging would fill the run's zeros, as `unmerged` does where there are masks.
    """
    check_output(to, [model, pruned, tuned], overwrite)
    if not to.absolute().parent.is_dir():
        raise UserError(f"{to.parent} is not a folder; make it first, or name another place")
    if dtype is not None and dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    skeleton = Skeleton(model, torch.device("cpu"))
    path, edits = _edits(skeleton, model, pruned, tuned, mode)
    generation_config(model)  # with a broken one, or a broken tokenizer, stock code would not load the result
    if has_tokenizer(model) and not own_code(model):
        load_tokenizer(model)
    with whole_folder(to, overwrite) as folder:
        writer = Writer(folder, shard or (ONE_FILE if skeleton.checkpoint.bytes <= ONE_FILE else SHARD))
        for names in tqdm(list(_units(skeleton.reader.names())), desc="export", unit="part", disable=not progress):
            writer.add(_part(skeleton, names, path, edits, None if dtype is None else DTYPES[dtype]))
        writer.close()
        write_config(folder / CONFIG, skeleton.checkpoint.config, type(skeleton.model).__name__, dtype)
        for name in companions(_files(model)):
            if name not in (CONFIG, CARD):
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(model / name, folder / name)
        write_text(folder / CARD, model_card(model, pruned, tuned, mode, dtype))
        if check:
            loads_elsewhere(folder, type(skeleton.model))


def _edits(
    skeleton: Skeleton, model: Path, pruned: Path | None, tuned: Path | None, mode: str | None
) -> tuple[str | None, list[Edit]]:
    """Where the blocks are that something changes, and what changes them, one after the other; checked, and nothing read."""
    if (tuned is None) != (mode is None):
        raise UserError("export: a fine-tuning needs a mode, and a mode a fine-tuning; give both or neither")
    if pruned is None and tuned is None:
        return None, []
    path, edits = adapter_for(skeleton.checkpoint.config).blocks_path, []
    if pruned is not None:
        check_run(skeleton.model.get_submodule(path), store := PrunedStore(pruned))
        edits.append(lambda index, block: apply_block(block, index, store))
    if tuned is not None and mode is not None:
        check(tuned, mode, origin := Origin(model, pruned))
        check_export(tuned, mode)
        edits.append(merging(tuned, mode, origin))
    return path, edits


def _units(names: list[str]) -> Iterator[list[str]]:
    """Names of tensors that are converted together: a block's, and all outside of the blocks."""
    units: dict[str, list[str]] = {}
    for name in names:
        numbered = re.match(r"(.*?\.\d+)\.", name)
        units.setdefault(numbered[1] if numbered else "", []).append(name)
    yield from units.values()


def _part(
    skeleton: Skeleton, names: list[str], path: str | None, edits: list[Edit], dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """One unit's tensors under their stock names, edited, as they are stored or as `dtype`."""
    skeleton.fill(names, as_stored=True)
    skeleton.reader.check_finite_tensors(skeleton.model.state_dict(), names)
    inside = re.match(rf"{re.escape(path)}\.(\d+)\.", names[0]) if path else None
    if path and inside:
        for edit in edits:
            edit(int(inside[1]), skeleton.model.get_submodule(f"{path}.{inside[1]}"))
    state = skeleton.model.state_dict()
    tensors = {name: state[name] if dtype is None else _as(state[name], dtype, name) for name in names}
    skeleton.drop()
    return stock_names(skeleton.model, tensors)


def _as(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The tensor as another type; values that do not fit it are a `UserError`."""
    if not tensor.is_floating_point():
        return tensor
    if kind := not_finite(made := tensor.to(dtype)):
        raise UserError(
            f"{name} holds {kind} as {str(dtype).removeprefix('torch.')}: its largest value, {float(tensor.abs().max()):.3g}, "
            "does not fit; write the checkpoint in bfloat16 or float32"
        )
    return made


def _files(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
