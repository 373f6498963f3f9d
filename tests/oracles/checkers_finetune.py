"""Section 9.2: what becomes of a sparse weight with an adapter."""

from typing import Any

import torch

from secateur.finetune.merge import delta, masked_merge, unmerged


def lora_merge(inputs: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """Everything about one linear; its zeros are its mask."""
    weight, down, up = (torch.tensor(inputs[name]) for name in ("W_sparse", "A", "B"))
    scale, pruned = params["alpha"] / params["r"], weight == 0
    return {
        "delta": delta(down, up, scale),
        "W_unmerged_effective": unmerged(weight, down, up, scale),
        "W_masked_merge": masked_merge(weight, down, up, scale, pruned),
        "keep_mask": (~pruned).int(),
    }
