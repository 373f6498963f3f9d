"""What secateur asks of transformers beyond its public interface, all in one file; tests/test_conversion.py notices an upgrade.

`get_model_conversion_mapping`, `rename_source_key` and `dot_natural_key` are what `from_pretrained` reads checkpoints with, and
peft imports them too. `revert_weight_conversion` gives the stock names that `save_pretrained` writes. `_init_weights` computes
the buffers that no checkpoint stores, such as rotary tables.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.initialization import guard_torch_init_functions

from secateur.errors import UserError

Load = Callable[[str], Tensor]
"""The tensor stored under a name."""


class Conversion:
    """How the stored tensors of a checkpoint become the tensors of a model (a skeleton on the meta device).

    `sources`: for each group of model tensors that are made together, by its first name, the stored names that it is made of.
    `unexpected`: stored names that the model has no place for.
    """

    def __init__(self, model: PreTrainedModel, stored: Iterable[str]) -> None:
        self.model, self.state = model, model.state_dict()
        transforms = get_model_conversion_mapping(model)
        renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
        by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        self._groups: dict[str, tuple[WeightConverter | None, list[tuple[str, str | None]]]] = {}
        unplaced = []
        # Natural order is the order of experts in a merged tensor, and some renamings rely on it.
        for key in sorted(stored, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters, model.base_model_prefix, self.state)
            if name not in self.state and key in self.state:  # as it was saved without the original names
                name, pattern = rename_source_key(key, [], [], model.base_model_prefix, self.state)
            if name not in self.state:
                unplaced.append(key)
                continue
            converter = None if pattern is None else by_pattern[pattern]
            self._groups.setdefault(name, (converter, []))[1].append((key, pattern))
        self.sources = {name: [key for key, _ in parts] for name, (_, parts) in self._groups.items()}
        self.unexpected = [key for key in unplaced if not any(re.search(pattern, key) for pattern in _ignored(model))]

    def merges(self, group: str) -> bool:
        """Whether a group is made of several stored tensors, or cut from one."""
        return self._groups[group][0] is not None

    def make(self, group: str, load: Load) -> dict[str, Tensor]:
        """The model tensors of a group, from what `load` reads. transformers raises what torch does where parts do not fit."""
        converter, parts = self._groups[group]
        if converter is None:
            return {group: load(parts[0][0])}
        converter = deepcopy(converter)
        for key, pattern in parts:
            converter.add_tensor(group, key, pattern, lambda key=key: load(key))  # pyright: ignore[reportArgumentType]
        made = converter.convert(group, model=self.model, config=self.model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


def _ignored(model: PreTrainedModel) -> list[str]:
    """Patterns of stored names that old checkpoints have and `from_pretrained` passes over: masks and tables now computed."""
    return [*(model._keys_to_ignore_on_load_unexpected or ()), r"rotary_emb\.inv_freq", r"(^|\.)position_ids$"]


def tied(model: PreTrainedModel) -> dict[str, str]:
    """Names of tensors that are another tensor of the model, and the names of that."""
    return dict(getattr(model, "all_tied_weights_keys", None) or {})


def stock_names(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a model, whole blocks together, under the names and in the form in which `save_pretrained` writes them."""
    skipped = set(model._keys_to_ignore_on_save or ()) | set(tied(model))
    return revert_weight_conversion(model, {name: tensor for name, tensor in tensors.items() if name not in skipped})


def kept_in_fp32(model: PreTrainedModel, name: str, dtype: torch.dtype) -> bool:
    """Whether `from_pretrained` keeps a tensor in fp32 in a model of the half precision `dtype`."""
    strict = list(model._keep_in_fp32_modules_strict or ())
    if dtype == torch.float16:
        strict += list(model._keep_in_fp32_modules or ())
    return dtype in (torch.float16, torch.bfloat16) and any(re.search(rf"(^|\.){re.escape(part)}($|\.)", name) for part in strict)


@torch.no_grad()
def compute_buffers(model: PreTrainedModel, modules: Mapping[str, nn.Module], device: torch.device) -> None:
    """Compute the buffers of `modules` (by their names in the model) that are still on the meta device, by the model's own
    initialisation, which leaves alone whatever is marked as initialised. A buffer that it does not compute is a `UserError`."""
    for path, module in modules.items():
        empty = [name for name, buffer in module._buffers.items() if buffer is not None and buffer.is_meta]
        if not empty:
            continue
        for name in empty:
            module._buffers[name] = _unset(module._buffers[name], device)
        with guard_torch_init_functions():
            _owner(model, path)._init_weights(module)
        for name in empty:
            if _is_unset(module._buffers[name]):
                raise UserError(f"{type(model).__name__} does not say how to compute its buffer {path}.{name}")


def _owner(model: PreTrainedModel, path: str) -> PreTrainedModel:
    """The innermost model around a module: a model may be made of others, each with an initialisation of its own."""
    parts = path.split(".")
    around = [model.get_submodule(".".join(parts[:end])) for end in range(len(parts), 0, -1)] if path else []
    return next((module for module in around if isinstance(module, PreTrainedModel)), model)


SENTINEL = -12345


def _unset(buffer: Any, device: torch.device) -> Tensor:
    return torch.full_like(
        buffer, torch.nan if buffer.is_floating_point() else 0 if buffer.dtype == torch.bool else SENTINEL, device=device
    )


def _is_unset(buffer: Any) -> bool:
    if buffer.dtype == torch.bool:
        return False
    return bool((buffer.isnan() if buffer.is_floating_point() else buffer == SENTINEL).any())
