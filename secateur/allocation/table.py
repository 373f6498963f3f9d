"""From a model, its statistics and a rule to a table with one entry a block."""

from pathlib import Path
from typing import Any

import torch
from tqdm import trange

from secateur import determinism
from secateur.allocation.base import Allocation, shares_of
from secateur.models.linears import linear_at, weight_of
from secateur.models.stream import StreamedModel
from secateur.patterns import check_sparsity, parse_pattern
from secateur.statistics import SiteStatistics
from secateur.statistics.store import open_statistics


@torch.no_grad()
def allocate(
    model: Path | str,
    allocation: Allocation,
    sparsity: float,
    pattern: str = "unstructured",
    *,
    statistics: Path | str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Any]:
    """`measures` and `table` of every block of the dense checkpoint folder `model`, one block in memory at a time.

    `statistics` is a folder made by `calibrate` (None for a rule that needs no data).
    """
    check_sparsity(sparsity)
    parse_pattern(pattern)
    stream = StreamedModel(Path(model), determinism.device(device))
    stream.reader.check_finite()
    store = open_statistics(None if statistics is None else Path(statistics), allocation.needs)
    measures = []
    for index in trange(len(stream), desc="allocate", unit="block", disable=not progress):
        known = store.read(index, stream.device) if store else {}
        with stream.block(index) as block:
            sites = [
                ([weight_of(linear_at(block, path)) for path in site.linears], known.get(site.name, SiteStatistics(0, 0)))
                for site in stream.adapter.sites
            ]
            measures.append(allocation.measure(sites))
    return {"measures": measures, "table": shares_of(allocation, measures, sparsity, pattern)}
