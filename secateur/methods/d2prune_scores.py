"""The score of D2Prune: what a weight is worth if both the weight and the activations around it may move."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.statistics import NormSums, SiteStatistics
from secateur.sweep import surgeon_score

MODES = ("reference", "reference_v2", "paper")
SCALES = ("fixed", "auto", "kmeans")


@dataclass(frozen=True)
class Shift:
    """The activation terms of one linear, S = q·c + r1·ŷ_i·|w|·x̂_j - r2·w²·x̂_j², where q is the quadratic term of the form.

    `outputs` is ŷ [rows], `inputs` x̂ [width], `curvature` c. `bare`: the first-order term lacks x̂_j, as in the first published
    code (no-update form).
    """

    outputs: Tensor
    inputs: Tensor
    r1: float
    r2: float
    curvature: float = 1.0
    bare: bool = False

    def score(self, quadratic: Tensor, weights: Tensor, columns: slice) -> Tensor:
        """Scores [columns, rows] from the quadratic term and the weights, both [columns, rows]."""
        score = quadratic if self.curvature == 1 else quadratic * self.curvature
        magnitude, inputs = weights.abs(), self.inputs[columns, None]
        if self.r1:
            score = score + (magnitude if self.bare else magnitude * inputs) * (self.outputs * self.r1)
        return score - (magnitude * inputs).square() * self.r2 if self.r2 else score


def activation_shift(
    mode: str, updates: bool, r1: float, r2: float, s: float, statistics: SiteStatistics, outputs: NormSums, means: bool
) -> Shift:
    """The activation terms of a linear with these `outputs`, in the update or the no-update form.

    `reference` and `reference_v2`: ŷ = (1/s)·Σ (n/N)·ȳ_n; x̂ = (1/s)·Σ (n/N)·x̄_n without update and (√2/(s·N))·Σ √n·x̄_n with it;
    with `means` (k-means scale) plain means over s instead. `paper`: ŷ = √(b/s), x̂ = √(a/s), and half the quadratic term.
    """
    norms = statistics.input_norms
    if norms is None:
        raise UserError("this method needs the bundle 'outputs', and the statistics do not hold it")
    if mode == "paper":
        return Shift((outputs.energy / s).sqrt(), (statistics.input_energy / s).sqrt(), r1, r2, curvature=0.5)
    bare = mode == "reference" and not updates
    if means:
        return Shift(outputs.mean / s, norms.mean / s, r1, r2, bare=bare)
    return Shift(outputs.late / s, (norms.late_root if updates else norms.late) / s, r1, r2, bare=bare)


def no_update_score(weight: Tensor, energy: Tensor, shift: Shift) -> Tensor:
    """D2-Wanda [out, in]: q = w²·a_j."""
    columns = weight.float().T
    return shift.score(columns.square() * energy[:, None], columns, slice(None)).T


@dataclass(frozen=True)
class UpdateScore:
    """D2-SparseGPT inside the sweep: q = w²/U_jj² with the compensated weights of the moment, one `Shift` for each of the
    stacked linears, which have `rows` rows each."""

    shifts: Sequence[Shift]
    rows: Sequence[int]

    def __call__(self, weights: Tensor, pivots: Tensor, columns: slice) -> Tensor:
        """Scores [columns, rows]."""
        rows = list(self.rows)
        quadratics, parts = surgeon_score(weights, pivots, columns).split(rows, dim=1), weights.split(rows, dim=1)
        linears = zip(self.shifts, quadratics, parts, strict=True)
        return torch.cat([shift.score(quadratic, part, columns) for shift, quadratic, part in linears], dim=1)


def two_means_scale(norms: Tensor) -> float:
    """s = the smaller of the two clusters' means of squares, the clusters from exact one-dimensional 2-means of `norms` [rows].

    The published code divides its history again after every sample, so its own s cannot be reproduced. All norms equal, or a
    lower cluster of zeros: the mean of squares of all; all zero: 1.
    """
    values = norms.double().sort().values
    squares = values.square()
    overall = float(squares.mean())
    if len(values) < 2 or values[0] == values[-1] or overall == 0:
        return overall or 1.0
    left = torch.arange(1, len(values), device=values.device)
    sums = values.cumsum(0)
    between = sums[:-1].square() / left + (sums[-1] - sums[:-1]).square() / (len(values) - left)
    return float(squares[: int(between.argmax()) + 1].mean()) or overall
