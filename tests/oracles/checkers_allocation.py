"""OWL, DLP, and the score of pruned image classifiers."""

from typing import Any

import torch

from secateur.allocation.base import Allocation
from secateur.allocation.dlp import DLP
from secateur.allocation.owl import OWL
from secateur.methods.magnitude import Magnitude
from secateur.methods.wanda import Wanda
from secateur.patterns import layer_threshold, row_k
from secateur.statistics import SiteStatistics

Values = dict[str, Any]


def blocks(inputs: Values) -> list[torch.Tensor]:
    """The scores of each block in one vector."""
    return [torch.cat([torch.tensor(matrix).flatten() for matrix in block]) for block in inputs["scores_per_block"]]


def spread(rule: Allocation, measures: list[float], params: Values) -> Values:
    """What a rule makes of its measures."""
    shares = rule.sparsities(measures, params["sparsity"])
    return {
        "keep_ratio": rule.keep_ratios(measures, params["sparsity"]),
        "block_sparsity": shares,
        "mean_sparsity": sum(shares) / len(shares),
    }


def owl(inputs: Values, params: Values) -> Values:
    """Section 7.1."""
    rule = OWL(params.get("M", 5), params["lambda"])
    measures = inputs["outlier_percent"] if "outlier_percent" in inputs else [rule.outliers(block) for block in blocks(inputs)]
    found: Values = {"outlier_percent": measures}
    if "sparsity" in params:
        return found | spread(rule, measures, params)
    zeros = rule.zeros(measures, params["n"], params["m"])
    return found | {"n_per_block": zeros, "delta": [float(params["n"] - zero) for zero in zeros]}


def dlp(inputs: Values, params: Values) -> Values:
    """Section 7.2."""
    if "values" in inputs:
        return {"median": DLP().unimportance(torch.tensor(inputs["values"]))}
    rule = DLP(params["alpha"], params.get("statistic", "median"))
    if "scores_per_block" not in inputs:
        return {name: summary(rule, facts, params["sparsity"]) for name, facts in inputs.items()}
    measures = [rule.unimportance(block) for block in blocks(inputs)]
    return {"unimportance": measures, "importance": rule.importance(measures)} | spread(rule, measures, params)


def summary(rule: DLP, facts: Values, sparsity: float) -> Values:
    """The rule on blocks whose u is such that the first, the last and the smallest keep ratio stand apart as published:
    if mean and range are not what the rule gives, nor are these."""
    others = (facts["n"] * (1 - sparsity) - facts["first"] - facts["last"] - facts["min"]) / (facts["n"] - 3)
    wanted = [others] * facts["n"]
    wanted[0], wanted[-1], wanted[facts["argmin"]] = facts["first"], facts["last"], facts["min"]
    keep = rule.keep_ratios([1 - value for value in wanted], sparsity)
    low = min(keep)
    return {
        "n": len(keep),
        "mean": sum(keep) / len(keep),
        "range": max(keep) - low,
        "first": keep[0],
        "last": keep[-1],
        "min": low,
        "argmin": keep.index(low),
    }


def wanda_image(inputs: Values, params: Values) -> Values:
    """Section 3.3: the statistic is the sum over chunks of the mean square over the chunk's tokens."""
    weight = torch.tensor(inputs["W"])
    chunks = [torch.tensor(inputs[name]) for name in sorted(inputs) if name.startswith("chunk")]
    row = torch.stack([chunk.square().mean(dim=0) for chunk in chunks]).sum(dim=0)
    known = SiteStatistics(1, 1, torch.zeros_like(row), row)
    method = Wanda() if params.get("metric", "wanda") == "wanda" else Magnitude()
    score = method.score(weight, known)
    return {
        "scaler_row": row,
        "score": score,
        "mask_row": row_k(score, params["sparsity"]).int(),
        "mask_layer": layer_threshold(score, params["sparsity"]).int(),
    }
