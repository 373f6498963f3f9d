"""Which of the queries, keys and values D2Prune leaves without an update: three objectives, as pure functions."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from secateur.errors import UserError

LETTERS = "qkv"
"""Also the order in which ties are settled."""


def outlier_shares(scores: Mapping[str, Tensor]) -> dict[str, float]:
    """r_* = the fraction of entries above their own mean, by letter (D2Prune, appendix D: of |w| of the dense weights)."""
    return {letter: int((values > values.mean()).sum()) / values.numel() for letter, values in scores.items()}


def most_outliers(shares: Mapping[str, float]) -> str:
    """The letter with the largest share stays without an update; ties: q before k before v."""
    return max(sorted(shares, key=LETTERS.index), key=shares.__getitem__)


def lowest_perplexity(perplexities: Mapping[str, float]) -> str:
    """The candidate, a string of letters, with the lowest perplexity; not finite counts as infinite. Ties: fewer letters, then
    q before k before v."""
    order = {letters: (len(letters), [LETTERS.index(letter) for letter in letters]) for letters in perplexities}
    finite = {letters: value if math.isfinite(value) else math.inf for letters, value in perplexities.items()}
    return min(perplexities, key=lambda letters: (finite[letters], order[letters]))


def kl_divergence(pruned: Tensor, dense: Tensor) -> Tensor:
    """Mean over query rows of Σ_key A·ln(A / A0) [heads]; probabilities [heads, queries, keys] are clamped at 1e-9 and
    renormalised first."""
    one, other = (part / part.sum(dim=-1, keepdim=True) for part in (pruned.clamp(min=1e-9), dense.clamp(min=1e-9)))
    return (one * (one.log() - other.log())).sum(dim=-1).mean(dim=-1)


def kl_divergences(dense: Iterable[Tensor], pruned: Mapping[str, Iterable[Tensor]]) -> dict[str, float]:
    """The mean over heads and sequences of `kl_divergence`, for each of several prunings; all are read side by side, so that
    only a few heads of each are in memory."""
    values: dict[str, list[float]] = {name: [] for name in pruned}
    for own, *others in zip(dense, *pruned.values(), strict=True):
        for name, other in zip(pruned, others, strict=True):
            values[name] += kl_divergence(other, own).tolist()
    return {name: math.fsum(each) / max(len(each), 1) for name, each in values.items()}


def squared_error(gram: Tensor, difference: Tensor) -> float:
    """‖X·Dᵀ‖² = tr(D·G·Dᵀ) for G = XᵀX [width, width] and D [out, width]."""
    return float((difference @ gram * difference).sum(dtype=torch.float64))


@dataclass(frozen=True)
class Objective:
    """J of all eight states of (q, k, v), U = updated and N = not, with its parts, and the best of them."""

    per_state: dict[str, dict[str, float]]
    best_state: str


def kl_objective(
    errors: Mapping[str, Mapping[str, float]], energy: float, divergences: Mapping[str, float], rho: float
) -> Objective:
    """J = L_rel + ρ·KL for every state: L_rel = Σ_* ‖X·W_*ᵀ - X·Ŵ_*ᵀ‖² / Σ_* ‖X·W_*ᵀ‖², our reading of D2Prune's equation 12.

    `errors[letter][version]` are the numerators, `energy` is the denominator, `divergences` the KL by the versions of q and k
    ("UN": q updated, k not): v does not enter the probabilities. Ties: fewer N, then U before N from the left.
    """
    states = {}
    for state in map("".join, product("UN", repeat=3)):
        error = sum(errors[letter][version] for letter, version in zip(LETTERS, state, strict=True))
        parts = {"L_abs": error, "L_rel": error / energy if energy else 0.0, "KL": divergences[state[:2]]}
        states[state] = parts | {"objective": parts["L_rel"] + rho * parts["KL"]}
        if not math.isfinite(states[state]["objective"]):
            raise UserError(
                f"d2prune dynamic 'kl': the objective of state {state} is not finite (error {error:g} of {energy:g}, "
                f"KL {parts['KL']:g}): the outputs or the attention overflow fp32; use d2prune without 'kl'"
            )
    best = min(states, key=lambda state: (states[state]["objective"], state.count("N"), state.translate({85: "0", 78: "1"})))
    return Objective(states, best)
