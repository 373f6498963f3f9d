"""From scores to masks: the selection rules of the field, with their tie rules spelled out.

Everywhere `scores` is [out, in] fp32, low scores are pruned first, and a mask is boolean with True = pruned. Among equal
scores the lowest index goes first, as a stable ascending sort would have it; the rules below find the k-th value and settle
ties by index, which gives the same mask without sorting.
"""

import re

import torch
from torch import Tensor

from secateur.errors import UserError

COUNTS = ("reference", "exact")
"""The published codes' number of pruned weights, off by one, or exactly k."""


def parse_pattern(pattern: str) -> tuple[int, int] | None:
    """`"2:4"` → (2, 4): two ZEROS in every group of four consecutive inputs; `"unstructured"` → None."""
    if pattern == "unstructured":
        return None
    match = re.fullmatch(r"(\d+):(\d+)", pattern)
    if match is None or not 0 < int(match[1]) < int(match[2]):
        raise UserError(f"pattern {pattern!r}: must be 'unstructured' or 'n:m' with 0 < n < m (n zeros in every m inputs)")
    return int(match[1]), int(match[2])


def check_sparsity(sparsity: float) -> None:
    """Refuse anything outside [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float) or not 0 <= sparsity < 1:
        raise UserError(f"sparsity {sparsity!r}: must be at least 0 and below 1")


def lowest_per_row(scores: Tensor, k: int) -> Tensor:
    """Mask of the k lowest scores of every row; ties go to the lowest column (Wanda's comparison group)."""
    if k == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(k, dim=1, keepdim=True).values
    mask = scores <= threshold
    surplus = mask.sum(dim=1) - k
    if surplus.any():  # more entries equal the k-th value than fit: keep the last ones of them
        for row in surplus.nonzero().flatten().tolist():
            ties = (scores[row] == threshold[row]).nonzero().flatten()
            mask[row, ties[len(ties) - int(surplus[row]) :]] = False
    return mask


def lowest_by_count(scores: Tensor, counts: Tensor) -> Tensor:
    """Mask of the `counts[row]` lowest scores of every row; ties go to the lowest column."""
    if len(set(counts.tolist())) == 1:
        return lowest_per_row(scores, int(counts[0]))
    rank = scores.argsort(dim=1, stable=True).argsort(dim=1)
    return rank < counts[:, None]


def row_k(scores: Tensor, sparsity: float) -> Tensor:
    """In every row prune the int(columns · sparsity) lowest (the product is truncated, as the references do)."""
    return lowest_per_row(scores, int(scores.shape[1] * sparsity))


def threshold_value(scores: Tensor, sparsity: float) -> Tensor:
    """The int(numel · sparsity)-th entry, counted from 0, of all scores in ascending order."""
    return scores.flatten().kthvalue(int(scores.numel() * sparsity) + 1).values


def layer_threshold(scores: Tensor, sparsity: float, count: str = "reference") -> Tensor:
    """One threshold for the whole matrix. `reference` prunes scores ≤ threshold, so at least k + 1 entries (the published
    code's quirk); `exact` prunes exactly k = int(numel · sparsity), ties by row-major index. Sparsity 0 prunes nothing."""
    if sparsity == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    if count == "exact":
        return lowest_per_row(scores.reshape(1, -1), int(scores.numel() * sparsity)).reshape(scores.shape)
    return scores <= threshold_value(scores, sparsity)


def n_of_m(scores: Tensor, n: int, m: int) -> Tensor:
    """In every group of m consecutive columns of every row prune the n lowest; ties go to the lowest column."""
    rows, columns = scores.shape
    if columns % m:
        raise UserError(f"pattern {n}:{m}: the layer's {columns} inputs are not divisible by {m}")
    groups = scores.reshape(rows, columns // m, m)
    order = groups.argsort(dim=2, stable=True)[..., :n]
    return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, order, True).reshape(rows, columns)


def is_n_of_m(mask: Tensor, n: int, m: int) -> bool:
    """Whether every group of m consecutive columns of every row of `mask` has exactly n pruned entries."""
    return mask.shape[1] % m == 0 and bool(mask.reshape(len(mask), -1, m).sum(dim=2).eq(n).all())
