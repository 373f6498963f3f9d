"""Statistics of a dense model, collected once for every run that reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import trange

from secateur.artifacts import write_tensors
from secateur.statistics.bundles import bundle_covers
from secateur.statistics.store import StatisticsStore
from secateur.walk import Walk


@torch.no_grad()
def collect(
    model: Path,
    tokens: Tensor,
    bundle: str,
    out: Path,
    *,
    work: Path,
    settings: Mapping[str, Any],
    device: str = "auto",
    progress: bool = True,
) -> None:
    """Statistics of every site of the checkpoint folder `model` → folder `out`, one file a block, and the tokens themselves.

    `tokens` [sequences, length]; `work` is where finished blocks wait for a restart; `settings` is stored beside the result.
    """
    walk = Walk(model, tokens, device, {"settings": settings, "bundle": bundle}, work)
    write_tensors(work / "tokens.safetensors", {"tokens": tokens.to(torch.int32)})
    if bundle_covers(bundle, "moments"):
        store, hidden = StatisticsStore(work), walk.begin(bundle)
        for index in trange(hidden.position, len(walk.model), desc=f"calibrate {bundle}", unit="block", disable=not progress):
            with walk.model.block(index) as block:
                store.write(index, walk.observe(block, keep=True))
            hidden.advance(walk.checkpoint)
    walk.finish(out, settings)
