"""A model's own code without its weights, every tensor on the meta device, into which tensors are read part by part."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur.checkpoint import Checkpoint
from secateur.errors import UserError
from secateur.models.config import refusing, transformers_config
from secateur.models.conversion import compute_buffers, kept_in_fp32
from secateur.models.reader import Reader

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class Skeleton:
    """The model of a checkpoint folder: `model` on the meta device, and the `reader` that fills it.

    `device` and `dtype` say where tensors go and as what. Opening one reads no weight; a folder that is not a whole checkpoint
    of a model that transformers knows is a `UserError`.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.checkpoint, self.device = Checkpoint(folder), device
        self.model = _build(self.checkpoint, dtype)
        self.reader = Reader(self.checkpoint, self.model)
        state = self.reader.conversion.state
        self.dtypes = {name: torch.float32 if kept_in_fp32(self.model, name, dtype) else state[name].dtype for name in state}

    def fill(self, names: Iterable[str], as_stored: bool = False) -> None:
        """Read the named tensors into their places, in the model's types, or `as_stored`."""
        for together, tensor in self.reader.tensors(names):
            self._place(together, tensor.to(self.device, None if as_stored else self.dtypes[together[0]]))

    def complete(self, root: str, but: str | None = None) -> None:
        """Compute what no checkpoint stores, such as rotary tables, in the module at `root`, but not inside the one at `but`."""
        inside = self.model.get_submodule(root).named_modules(prefix=root)
        wanted = {name: module for name, module in inside if but is None or not name.startswith(f"{but}.")}
        compute_buffers(self.model, wanted, self.device)

    def drop(self) -> None:
        """Everything back to the meta device."""
        nn.Module.to(self.model, "meta")

    def _place(self, names: list[str], tensor: Tensor) -> None:
        """One tensor under all its names: tied ones stay one object, as training and saving expect."""
        one: Tensor = tensor
        for name in names:
            path, _, leaf = name.rpartition(".")
            parent = self.model.get_submodule(path)
            if leaf in parent._parameters:
                one = one if isinstance(one, nn.Parameter) else nn.Parameter(one, requires_grad=one.is_floating_point())
                parent._parameters[leaf] = one
            else:
                parent._buffers[leaf] = one
            one._is_hf_initialized = True  # pyright: ignore[reportAttributeAccessIssue]  # transformers' own initialisation keeps it


def _build(checkpoint: Checkpoint, dtype: torch.dtype) -> "PreTrainedModel":
    """What `config.json` describes, in eval mode: a causal language model or an image classifier; else a `UserError`."""
    config = transformers_config(checkpoint.config, checkpoint.folder)
    auto = _auto_class(checkpoint, config)
    padding, rows = getattr(config, "pad_token_id", None), getattr(config, "vocab_size", None)
    if isinstance(padding, int) and isinstance(rows, int) and padding >= rows:
        raise UserError(f"{checkpoint.folder}: config.json has pad_token_id {padding}: must be below vocab_size {rows}, or null")
    with refusing(f"{checkpoint.folder}: no model can be built from config.json"), torch.device("meta"):
        return auto.from_config(config, dtype=dtype, trust_remote_code=False).eval()


def _auto_class(checkpoint: Checkpoint, config: "PreTrainedConfig") -> Any:
    """The class to build: as `architectures` says or, where that names nothing that transformers knows, as the family has."""
    import transformers
    from transformers import AutoModelForCausalLM, AutoModelForImageClassification
    from transformers.models.auto import modeling_auto

    kinds = {
        AutoModelForCausalLM: modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        AutoModelForImageClassification: modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    }
    listed = checkpoint.config.get("architectures")
    listed = [listed] if isinstance(listed, str) else listed
    if listed is not None and not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
        raise UserError(f"{checkpoint.folder}: config.json: architectures {listed!r}: must be a list of names of classes")
    named = next(iter(listed or ()), None)
    fitting = [auto for auto, names in kinds.items() if config.model_type in names]
    for auto in fitting:
        if named in _flat(kinds[auto][config.model_type]):
            return auto
    # A folder saved from a base model names that; whether its tensors are enough, the reader will see.
    base = _flat(modeling_auto.MODEL_MAPPING_NAMES.get(config.model_type, ()))
    if fitting and any(named in _flat(names) for table in kinds.values() for names in table.values()):
        raise UserError(
            f"{checkpoint.folder}: config.json names the class {named} and model_type {config.model_type!r}: mend one of them"
        )
    if not fitting or (named and named not in base and hasattr(transformers, named)):
        what = named or f"model of the family {config.model_type}"
        raise UserError(f"{checkpoint.folder} holds a {what}: secateur reads causal language models and image classifiers")
    return fitting[0]


def _flat(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
