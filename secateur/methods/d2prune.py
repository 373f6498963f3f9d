"""D2Prune: SparseGPT and Wanda with activation terms in their scores, and some attention weights left without an update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from secateur.errors import UserError, unknown_name
from secateur.methods.base import Method, Pruned, Surroundings, Target, check_scores
from secateur.methods.d2prune_choice import LETTERS, kl_divergences, kl_objective, most_outliers, outlier_shares, squared_error
from secateur.methods.d2prune_parts import Part, join_parts, parts_of, values_of, weights_of
from secateur.methods.d2prune_scores import MODES, SCALES, Shift, UpdateScore, activation_shift, no_update_score, two_means_scale
from secateur.patterns import n_of_m, parse_pattern, row_k
from secateur.statistics import SiteStatistics
from secateur.sweep import Factor, sweep

PRESETS = {
    "opt-125m": "k",
    "llama-2-7b": "v",
    "llama-2-13b": "k",
    "llama-2-70b": "v",
    "llama-3-8b": "v",
    "llama-3-70b": "v",
}
"""What the authors' scripts leave without an update, by model."""
DYNAMIC = ("none", "outlier", "kl")
METRICS = ("weight", "score")


@dataclass(frozen=True)
class D2Prune(Method):
    """Update form: the sweep of SparseGPT with S = w²/U_jj² + r1·ŷ_i·|w|·x̂_j - r2·w²·x̂_j². No-update form: S = w²·a_j + the same
    terms, the lowest of each row go, survivors stay. ŷ and x̂ are norms of outputs and inputs over s; `mode` says which (see
    `d2prune_scores.activation_shift`): those of the first published code (`reference`), of the later one (`reference_v2`), or of
    the paper, whose no-update form is Wanda.

    `no_update`: letters of q, k, v in the no-update form, "none", "all" (every linear of the block), or a model of `PRESETS`.
    `dynamic` decides it block by block instead: `outlier` leaves the one of q, k, v with the most weights above their mean (or
    scores, `outlier_metric`); `kl` takes the best of all eight states by relative error + `rho`·KL of the attention probabilities
    of `samples` sequences. GPT-2's fused layer is pruned as three linears, its thirds. `scale`: s as given, "auto" (the length of
    the calibration windows), or "kmeans" (from the outputs of each linear; ŷ and x̂ are then plain means).

    Xiong et al., D²Prune: Sparsifying Large Language Models via Dual Taylor Expansion and Attention Distribution Awareness
    (arXiv 2601.09176).
    """

    mode: str = "reference"
    s: float = 1500.0
    scale: str = "fixed"
    r1: float = 1.0
    r2: float = 0.0
    no_update: str = "k"
    dynamic: str = "none"
    outlier_metric: str = "weight"
    rho: float = 1.0
    samples: int = 16
    percdamp: float = 0.01
    blocksize: int = 128

    needs: ClassVar[str] = "outputs"
    updates_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        allowed = {"mode": MODES, "scale": SCALES, "dynamic": DYNAMIC, "outlier_metric": METRICS}
        for option, names in allowed.items():
            if getattr(self, option) not in names:
                raise unknown_name(f"d2prune {option}", getattr(self, option), names)
        for option in ("s", "percdamp", "samples", "blocksize"):
            if not getattr(self, option) > 0:
                raise UserError(f"d2prune {option} {getattr(self, option)}: must be above 0")
        for option in ("r1", "r2", "rho"):
            if not getattr(self, option) >= 0:
                raise UserError(f"d2prune {option} {getattr(self, option)}: must be at least 0")
        letters = list(str(self.letters))
        if not self.no_update or {*letters} - {*LETTERS} or len({*letters}) < len(letters):
            allowed = f"letters of 'qkv', 'none', 'all' or one of {', '.join(PRESETS)}"
            raise UserError(f"d2prune no_update {self.no_update!r}: must be {allowed}")

    @property
    def walks(self) -> bool:
        return self.dynamic == "kl"

    @property
    def letters(self) -> str:
        """What `no_update` says of q, k and v."""
        return (PRESETS | {"none": "", "all": LETTERS}).get(self.no_update, self.no_update)

    def prune(self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target]) -> list[Pruned]:
        """Both forms from one set of statistics; without the block around the site `kl` is a `UserError`."""
        return self.prune_in(weights, statistics, targets, Surroundings())

    def prune_in(
        self, weights: Sequence[Tensor], statistics: SiteStatistics, targets: Sequence[Target], around: Surroundings
    ) -> list[Pruned]:
        """Choose the form of each linear, prune, and note in `around.choices` what a dynamic choice rested on."""
        parts = parts_of(weights, statistics, targets)
        if self.dynamic == "kl" and {*LETTERS} <= {part.letter for part in parts}:
            return join_parts(parts, self._by_attention(parts, statistics, around))
        still = self._without_update(parts, statistics, around)
        solved = dict(zip(still, self.without_update([parts[index] for index in still], statistics), strict=True))
        moved = [index for index in range(len(parts)) if index not in solved]
        solved |= dict(zip(moved, self.with_update([parts[index] for index in moved], statistics), strict=True))
        return join_parts(parts, [solved[index] for index in range(len(parts))])

    def shift(self, part: Part, statistics: SiteStatistics, updates: bool) -> Shift:
        """The activation terms of a part in one of the forms."""
        known, means = {"fixed": self.s, "auto": statistics.tokens / statistics.sequences}, self.scale == "kmeans"
        s = two_means_scale(part.outputs.mean) if means else known[self.scale]
        return activation_shift(self.mode, updates, self.r1, self.r2, s, statistics, part.outputs, means)

    def no_update_scores(self, part: Part, statistics: SiteStatistics) -> Tensor:
        """Scores [out, in] of the no-update form."""
        return no_update_score(part.weight, statistics.input_energy, self.shift(part, statistics, updates=False))

    def without_update(self, parts: Sequence[Part], statistics: SiteStatistics) -> list[Pruned]:
        """D2-Wanda: the lowest scores of each row, or n:m."""
        solved = []
        for part in parts:
            scores, pattern = self.no_update_scores(part, statistics), parse_pattern(part.target.pattern)
            check_scores(scores)
            solved.append(Pruned(n_of_m(scores, *pattern) if pattern else row_k(scores, part.target.sparsity)))
        return solved

    def with_update(self, parts: Sequence[Part], statistics: SiteStatistics) -> list[Pruned]:
        """D2-SparseGPT: one factorisation and one sweep; each part keeps its own thresholds."""
        if not parts:
            return []
        score = UpdateScore([self.shift(part, statistics, updates=True) for part in parts], [len(part.weight) for part in parts])
        factor = Factor.of(statistics.hessian, self.percdamp)
        weights, targets = [part.weight for part in parts], [part.target for part in parts]
        return sweep(weights, factor, self.blocksize, targets=targets, score=score).pruned

    def _without_update(self, parts: Sequence[Part], statistics: SiteStatistics, around: Surroundings) -> list[int]:
        """Indices of the parts that take the no-update form."""
        own = {part.letter: part for part in parts}
        if self.dynamic == "none":
            every, letters = self.no_update == "all", {*self.letters}
            return [index for index, part in enumerate(parts) if every or part.letter in letters]
        if not {*LETTERS} <= own.keys():
            return []
        by_weight, score = self.outlier_metric == "weight", partial(self.no_update_scores, statistics=statistics)
        shares = outlier_shares({letter: own[letter].weight.abs() if by_weight else score(own[letter]) for letter in LETTERS})
        letter = most_outliers(shares)
        around.choices.update({"dynamic": "outlier", "metric": self.outlier_metric, "share": shares, "no_update": letter})
        return [index for index, part in enumerate(parts) if part.letter == letter]

    def _by_attention(self, parts: Sequence[Part], statistics: SiteStatistics, around: Surroundings) -> list[Pruned]:
        """Prune everything in both forms and keep the best of the eight states. L_rel comes from the Gram matrix of all
        sequences, the KL from the first `samples`."""
        attention, gram = around.attention, statistics.gram
        if attention is None or gram is None:
            raise UserError("d2prune dynamic 'kl' needs the inputs of the block: use propagation 'block' or 'site'")
        versions = {"U": self.with_update(parts, statistics), "N": self.without_update(parts, statistics)}
        order = [LETTERS.index(part.letter) for part in parts]

        def chosen(state: str) -> list[Pruned]:
            return [versions[state[place]][index] for index, place in enumerate(order)]

        def error(part: Part, pruned: Pruned) -> float:
            return squared_error(gram, part.weight.float() - values_of(part, pruned))

        errors: Mapping[str, Mapping[str, float]] = {
            part.letter: {version: error(part, solved[index]) for version, solved in versions.items()}
            for index, part in enumerate(parts)
        }
        energy = sum(squared_error(gram, part.weight.float()) for part in parts)
        heads = {state: attention(weights_of(parts, chosen(f"{state}U")), self.samples) for state in ("UU", "UN", "NU", "NN")}
        kept = [Pruned(torch.zeros_like(part.weight, dtype=torch.bool)) for part in parts]
        divergences = kl_divergences(attention(weights_of(parts, kept), self.samples), heads)
        found = kl_objective(errors, energy, divergences, self.rho)
        letters = "".join(letter for letter, version in zip(LETTERS, found.best_state, strict=True) if version == "N")
        around.choices.update({"dynamic": "kl", "rho": self.rho, "states": found.per_state, "state": found.best_state})
        around.choices["no_update"] = letters or "none"
        return chosen(found.best_state)
