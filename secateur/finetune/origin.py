"""What a fine-tuning starts from: a model, a run that pruned it, and digests that tell both from any other."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.artifacts import SUMS, read_sums, sha256
from secateur.checkpoint import read_config
from secateur.errors import UserError
from secateur.masks import PrunedStore
from secateur.models.adapters import Adapter, adapter_for
from secateur.models.reader import Reader
from secateur.models.skeleton import Skeleton


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names and digests of the weights (safetensors) and the `config.json` in a folder. Digests are taken from
    its SHA256SUMS where there is one; tokenizers, settings and anything else make no difference."""
    files = [*folder.glob("config.json"), *folder.rglob("[!.]*.safetensors")]
    if not files:
        raise UserError(f"{folder} holds no weights (*.safetensors)")
    known = read_sums(folder) if (folder / SUMS).is_file() else {}
    names = {file.relative_to(folder).as_posix(): file for file in files}
    lines = [f"{known.get(name) or sha256(file)}  {name}\n" for name, file in sorted(names.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Origin:
    """A checkpoint folder, and the folder of a run on it; None: the dense model."""

    model: Path
    pruned: Path | None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's parsed `config.json`."""
        return read_config(self.model)

    @cached_property
    def reader(self) -> Reader:
        """The model's tensors."""
        return Skeleton(self.model, torch.device("cpu")).reader

    @cached_property
    def adapter(self) -> Adapter:
        """What is known of the model's family."""
        return adapter_for(self.config)

    @cached_property
    def blocks(self) -> int:
        """Number of transformer blocks."""
        return self.adapter.blocks(self.config)

    @cached_property
    def context(self) -> int:
        """The longest sequence, in tokens, that the model accepts."""
        return self.adapter.context(self.config)

    @cached_property
    def digests(self) -> dict[str, str | None]:
        """The identity of the weights that the fine-tuning is for."""
        return {"model": weights_digest(self.model), "run": None if self.pruned is None else weights_digest(self.pruned)}

    @property
    def has_masks(self) -> bool:
        """Whether there are zeros to keep: not in the dense model, nor in one that lost whole structures."""
        return self.pruned is not None and PrunedStore(self.pruned).blocks > 0

    def name(self, block: int, path: str) -> str:
        """The name in the whole model of a linear of a block."""
        return f"{self.adapter.blocks_path}.{block}.{path}"

    def names(self, paths: Sequence[str]) -> list[str]:
        """The names in the whole model of these linears of every block."""
        return [self.name(block, path) for block in range(self.blocks) for path in paths]

    def pattern(self, paths: Sequence[str]) -> str:
        """The regular expression that matches `names(paths)` and nothing else in the model."""
        return rf"{re.escape(self.adapter.blocks_path)}\.\d+\.({'|'.join(map(re.escape, paths))})"

    def masks(self, paths: Sequence[str]) -> dict[str, Tensor]:
        """The run's masks [out, in], True = pruned, by the linears' names in the whole model; empty if it has none. They are the
        recorded ones: a survivor that happens to be zero is not taken for pruned."""
        found: dict[str, Tensor] = {}
        for block in range(self.blocks if self.has_masks else 0):
            found |= self.block_masks(block, paths)
        return found

    def block_masks(self, block: int, paths: Sequence[str]) -> dict[str, Tensor]:
        """The same of one block."""
        if self.pruned is None or not self.has_masks:
            return {}
        linears = PrunedStore(self.pruned).read(block)
        return {self.name(block, path): linears[path].mask for path in paths if path in linears}
