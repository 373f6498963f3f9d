"""Section 5: everything the library computes for a Pruner-Zero case, by the names the oracle files use."""

from typing import Any

import torch

from secateur.methods.gradient_score import min_max
from secateur.methods.pruner_zero import PrunerZero
from secateur.statistics import SiteStatistics
from secateur.statistics.gradients import SCALE, add_square


def pruner_zero(inputs: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """From `grads_per_sample`, or from a given `G`."""
    from tests.oracles.checkers import selected, tensor

    if "G" in inputs:
        magnitude = tensor(inputs["G"])
    else:
        total = torch.zeros_like(tensor(inputs["W"]))
        for gradient in inputs["grads_per_sample"]:
            add_square(total, tensor(gradient), float(params.get("scale", SCALE)))
        magnitude = total.sqrt()
    known = SiteStatistics(0, 0, gradients=(magnitude,))
    return selected(PrunerZero(), inputs, params, known) | {"G": magnitude, "mms_G": min_max(magnitude)}
