"""Masks and surviving weights on disk: one bit a weight, and the survivors only where a method changed them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur.artifacts import header_of, open_tensors, read_tensors, write_tensors
from secateur.errors import UserError

# Eight 0/1 bytes, read as one little-endian integer, times this number have the eight bits in the top byte, the first byte in
# the highest bit: byte i stands at bit 8i and is moved by 63 - 9i, and no two of the 64 products share a bit.
_GATHER = sum(1 << (63 - 9 * byte) for byte in range(8)) - (1 << 64)


def pack_bits(mask: Tensor) -> Tensor:
    """Boolean mask of any shape → uint8 [ceil(numel / 8)], row-major, first entry in the highest bit (as numpy.packbits)."""
    flat = torch.nn.functional.pad(mask.cpu().flatten(), (0, -mask.numel() % 8))
    return (flat.view(torch.int64) * _GATHER).bitwise_right_shift_(56).bitwise_and_(255).to(torch.uint8)


def unpack_bits(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The boolean mask that `pack_bits` packed."""
    values = torch.arange(256, dtype=torch.uint8)
    table = (values[:, None] >> torch.arange(7, -1, -1, dtype=torch.uint8) & 1).view(torch.int64).flatten()
    return table[packed.int()].view(torch.bool)[: torch.Size(shape).numel()].view(shape)


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
            weight.masked_scatter_(~mask, self.values.to(weight.device, weight.dtype))
        weight.masked_fill_(mask, 0)


def masked_share(linears: Mapping[str, PrunedLinear]) -> float:
    """The share of all entries of some linears that are pruned; 0 of none."""
    total = sum(linear.mask.numel() for linear in linears.values())
    return sum(int(linear.mask.sum()) for linear in linears.values()) / max(1, total)


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

    def shapes(self, block: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the pruned linears of one block, without reading them."""
        with open_tensors(self.path("masks", block)) as file:
            return {name: tuple(shape) for name, shape in header_of(file).items()}

    def read(self, block: int) -> dict[str, PrunedLinear]:
        """Read one block."""
        packed, shapes = read_tensors(self.path("masks", block))
        if packed.keys() != shapes.keys():
            raise UserError(f"{self.path('masks', block)} is damaged: it does not say the shapes of its masks; prune again")
        values = read_tensors(self.path("values", block))[0] if self.path("values", block).is_file() else {}
        linears = {name: PrunedLinear(unpack_bits(packed[name], tuple(shapes[name])), values.get(name)) for name in shapes}
        for name, linear in linears.items():
            if linear.values is not None and len(linear.values) != linear.mask.numel() - int(linear.mask.count_nonzero()):
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
