"""Statistics on disk: one safetensors file a block, Gram matrices as their upper triangle."""

from pathlib import Path

import torch
from torch import Tensor

from secateur.artifacts import read_tensors, write_tensors
from secateur.errors import UserError
from secateur.statistics.site import SiteStatistics


def pack_triangle(matrix: Tensor) -> Tensor:
    """Rows of the upper triangle, one after the other: [n, n] symmetric → [n(n+1)/2]."""
    return torch.cat([matrix[row, row:] for row in range(len(matrix))])


def unpack_triangle(packed: Tensor, width: int) -> Tensor:
    """The symmetric matrix that `pack_triangle` packed."""
    matrix = packed.new_zeros(width, width)
    start = 0
    for row in range(width):
        matrix[row, row:] = packed[start : start + width - row]
        start += width - row
    return matrix + matrix.triu(1).T


class StatisticsStore:
    """The folder `artifacts/stats/<model>--<calibration>--<bundle>/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, block: int) -> Path:
        """File of one block."""
        return self.folder / f"block_{block:03d}.safetensors"

    def write(self, block: int, sites: dict[str, SiteStatistics]) -> None:
        """Write the statistics of one block, atomically."""
        tensors: dict[str, Tensor] = {}
        header = {}
        for name, site in sites.items():
            header[name] = {"sequences": site.sequences, "tokens": site.tokens}
            if site.input_sum is not None and site.input_square_sum is not None:
                tensors[f"{name}.input_sum"] = site.input_sum
                tensors[f"{name}.input_square_sum"] = site.input_square_sum
            if site.gram is not None:
                tensors[f"{name}.gram"] = pack_triangle(site.gram)
        write_tensors(self.path(block), {name: tensor.cpu() for name, tensor in tensors.items()}, header)

    def read(self, block: int, device: torch.device) -> dict[str, SiteStatistics]:
        """Statistics of one block by site."""
        if not self.path(block).is_file():
            raise UserError(f"{self.path(block)} does not exist; run `calibrate-stats` for it first")
        tensors, header = read_tensors(self.path(block))
        sites = {}
        for name, counts in header.items():
            gram = tensors.get(f"{name}.gram")
            total, squares = tensors.get(f"{name}.input_sum"), tensors.get(f"{name}.input_square_sum")
            sites[name] = SiteStatistics(
                counts["sequences"],
                counts["tokens"],
                None if total is None else total.to(device),
                None if squares is None else squares.to(device),
                None if gram is None or squares is None else unpack_triangle(gram, len(squares)).to(device),
            )
        return sites
