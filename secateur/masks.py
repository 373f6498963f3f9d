"""Masks and surviving weights on disk: one bit a weight, and the survivors only where a method changed them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur.artifacts import read_tensors, write_tensors
from secateur.errors import UserError

_BITS = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8)


def pack_bits(mask: Tensor) -> Tensor:
    """Boolean mask of any shape → uint8 [ceil(numel / 8)], row-major, first entry in the highest bit (as numpy.packbits)."""
    flat = mask.flatten().to(torch.uint8).cpu()
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % 8))
    return (padded.view(-1, 8) * _BITS).sum(dim=1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The boolean mask that `pack_bits` packed."""
    flat = (packed[:, None] & _BITS).ne(0).flatten()
    return flat[: torch.Size(shape).numel()].view(shape)


@dataclass(frozen=True)
class PrunedLinear:
    """A stored result for one linear: `mask` [out, in], True = pruned; `values` [survivors] row-major in the weight's dtype,
    or None when survivors keep their dense values."""

    mask: Tensor
    values: Tensor | None = None

    def apply(self, weight: Tensor) -> None:
        """Write the result into `weight` [out, in], in place, with exact zeros."""
        mask = self.mask.to(weight.device)
        if self.values is not None:
            weight[~mask] = self.values.to(weight.device, weight.dtype)
        weight[mask] = 0


class PrunedStore:
    """The folder `artifacts/pruned/<run>/`: `masks/block_*.safetensors` and, if weights changed, `values/block_*.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, part: str, block: int) -> Path:
        """File of one block; `part` is "masks" or "values"."""
        return self.folder / part / f"block_{block:03d}.safetensors"

    def write(self, block: int, linears: Mapping[str, PrunedLinear]) -> None:
        """Write one block. The masks come last: they mark the block as finished."""
        values = {name: linear.values.cpu() for name, linear in linears.items() if linear.values is not None}
        if values:
            write_tensors(self.path("values", block), values)
        shapes = {name: list(linear.mask.shape) for name, linear in linears.items()}
        write_tensors(self.path("masks", block), {name: pack_bits(linear.mask) for name, linear in linears.items()}, shapes)

    def read(self, block: int) -> dict[str, PrunedLinear]:
        """Read one block."""
        packed, shapes = read_tensors(self.path("masks", block))
        values = read_tensors(self.path("values", block))[0] if self.path("values", block).is_file() else {}
        linears = {name: PrunedLinear(unpack_bits(packed[name], tuple(shapes[name])), values.get(name)) for name in shapes}
        for name, linear in linears.items():
            if linear.values is not None and len(linear.values) != int((~linear.mask).sum()):
                raise UserError(
                    f"{self.folder}: block {block}, {name}: {len(linear.values)} values for another number of survivors"
                )
        return linears

    def has(self, block: int) -> bool:
        """Whether the block is finished."""
        return self.path("masks", block).is_file()

    @property
    def blocks(self) -> int:
        """Number of finished blocks, counted from the first."""
        count = 0
        while self.has(count):
            count += 1
        return count

    def bytes(self) -> dict[str, int]:
        """Size of the masks and of the values on disk."""
        return {
            part: sum(file.stat().st_size for file in sorted((self.folder / part).glob("*.safetensors")))
            for part in ("masks", "values")
        }
