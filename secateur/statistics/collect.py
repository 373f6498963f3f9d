"""Statistics of a dense model, collected once for every run that reads them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import trange

from secateur.examples import Examples
from secateur.outputs import check_output
from secateur.statistics.bundles import bundle_covers
from secateur.statistics.store import StatisticsStore
from secateur.walk import Walk


@torch.no_grad()
def collect(
    model: Path,
    tokens: Tensor | Examples,
    bundle: str,
    out: Path,
    *,
    work: Path,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> None:
    """Statistics of every site of the checkpoint folder `model` → folder `out`, one file a block, and the tokens themselves.

    `tokens` [sequences, length]; for the bundle `tokens` they may be padded examples. `work` is where finished blocks wait for a
    restart; `settings` is stored beside the result.

    Raises, before any work, a `UserError` if `out` exists, unless it is an untouched result of ours and `overwrite` is set.
    """
    check_output(out, [model], overwrite, work)
    observes, examples = bundle_covers(bundle, "moments"), Examples.of(tokens)
    windows = examples.windows() if observes else examples.tokens
    walk = Walk(model, windows, device, {"settings": settings, "bundle": bundle}, work)
    walk.start()
    examples.write(work / "tokens.safetensors")
    if observes:
        store, hidden = StatisticsStore(work), walk.begin(bundle)
        for index in trange(hidden.position, len(walk.model), desc=f"calibrate {bundle}", unit="block", disable=not progress):
            with walk.model.block(index) as block:
                store.write(index, walk.observe(block, keep=True))
            hidden.advance(walk.checkpoint)
    walk.finish(out, settings, overwrite)
