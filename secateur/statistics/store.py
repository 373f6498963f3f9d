"""Statistics on disk: one safetensors file a block, Gram matrices as their upper triangle."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.artifacts import read_json, read_tensors, write_tensors
from secateur.errors import UserError
from secateur.finite import not_finite
from secateur.statistics.bundles import bundle_covers
from secateur.statistics.norms import NormSums
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
        """Write the statistics of one block, atomically; an inf or nan among them is a `UserError`."""
        tensors: dict[str, Tensor] = {}
        header: dict[str, dict[str, Any]] = {}
        for name, site in sites.items():
            header[name] = {"sequences": site.sequences, "tokens": site.tokens}
            if site.input_sum is not None and site.input_square_sum is not None:
                tensors[f"{name}.input_sum"] = site.input_sum
                tensors[f"{name}.input_square_sum"] = site.input_square_sum
            if site.gram is not None:
                tensors[f"{name}.gram"] = pack_triangle(site.gram)
            if site.input_norms is not None:
                tensors[f"{name}.input_norms"] = site.input_norms.sums
                tensors |= {f"{name}.outputs.{path}": norms.sums for path, norms in site.outputs.items()}
                header[name]["linears"] = list(site.outputs)
        for name, tensor in tensors.items():
            if kind := not_finite(tensor):
                raise UserError(f"block {block}: the statistics {name} hold {kind}: the model overflows fp32 on these tokens")
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
            norms = tensors.get(f"{name}.input_norms")
            outputs = {path: tensors[f"{name}.outputs.{path}"] for path in counts.get("linears", [])}
            sites[name] = SiteStatistics(
                counts["sequences"],
                counts["tokens"],
                None if total is None else total.to(device),
                None if squares is None else squares.to(device),
                None if gram is None or squares is None else unpack_triangle(gram, len(squares)).to(device),
                input_norms=None if norms is None else NormSums(counts["sequences"], norms.to(device)),
                outputs={path: NormSums(counts["sequences"], sums.to(device)) for path, sums in outputs.items()},
            )
        return sites


def open_statistics(folder: Path | None, needs: str) -> StatisticsStore | None:
    """The statistics of a calibration, or None if nothing is needed; a `UserError` if they do not hold what is."""
    if not bundle_covers(needs, "moments"):
        return None
    if folder is None:
        raise UserError(f"the statistics folder of a calibration with the bundle {needs!r} is needed; make it with calibrate")
    has = read_json(folder / "settings.json").get("bundle", "nothing")
    if not bundle_covers(has, needs):
        raise UserError(f"{folder} holds the bundle {has!r}; {needs!r} is needed: calibrate with bundle {needs!r}")
    return StatisticsStore(folder)
