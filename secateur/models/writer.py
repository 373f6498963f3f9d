"""Checkpoints written shard by shard, so that no more than one shard of a model is ever in memory."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from secateur.artifacts import write_json
from secateur.checkpoint import INDEX, SINGLE

ONE_FILE, SHARD = 1 << 30, 512 << 20
"""Bytes: up to the first a model is one file; a larger one has shards of the second, since a shard has to be in memory to be
written."""


class Writer:
    """The weights of one checkpoint, into `folder`: `model.safetensors`, or numbered shards with their index."""

    def __init__(self, folder: Path, shard: int = SHARD) -> None:
        self.folder, self.limit = folder, shard
        self._waiting: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._bytes = 0

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Tensors under their stored names; whole shards are written as they fill."""
        for name, tensor in tensors.items():
            if self._waiting and _bytes(self._waiting.values()) + _bytes([tensor]) > self.limit:
                self._flush()
            self._waiting[name] = _alone(tensor.detach())

    def close(self) -> None:
        """Write what waits, give the shards their names, and say in an index which holds what."""
        self._flush()
        if len(self._shards) == 1:
            self._part(0).rename(self.folder / SINGLE)
            return
        names = [f"model-{number + 1:05d}-of-{len(self._shards):05d}.safetensors" for number in range(len(self._shards))]
        for number, name in enumerate(names):
            self._part(number).rename(self.folder / name)
        held = {tensor: name for name, tensors in zip(names, self._shards, strict=True) for tensor in tensors}
        write_json(self.folder / INDEX, {"metadata": {"total_size": self._bytes}, "weight_map": held})

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if self._waiting:
            save_file(self._waiting, self._part(len(self._shards)), metadata={"format": "pt"})
            self._bytes += _bytes(self._waiting.values())
            self._shards.append(list(self._waiting))
            self._waiting = {}

    def _part(self, number: int) -> Path:
        return self.folder / f".part-{number:05d}.safetensors"


def _alone(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own: a part of a larger one cannot be stored, and would keep all of that in memory."""
    alone = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == _bytes([tensor])
    return tensor if alone else tensor.clone(memory_format=torch.contiguous_format)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
