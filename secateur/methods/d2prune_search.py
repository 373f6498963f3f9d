"""D2Prune's search over whole models: prune once for each candidate and keep the one with the lowest perplexity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur import api
from secateur.errors import UserError, unknown_name
from secateur.evaluation.perplexity import perplexity
from secateur.methods.d2prune_choice import LETTERS, lowest_perplexity
from secateur.models.load import assemble
from secateur.recipe import Recipe

CANDIDATES = {
    "reduced": tuple(LETTERS),
    "full": tuple("".join(letters) for size in range(4) for letters in combinations(LETTERS, size)),
}
"""`reduced`: the authors' three; `full`: all subsets of q, k and v, "" = everything updated."""


@dataclass(frozen=True)
class Search:
    """What was tried: perplexity by candidate ("" = everything updated), the dense model's, the winner's value of `no_update`,
    and the folder of the winner's run, pruned at the sparsity of the search."""

    perplexities: dict[str, float]
    dense: float
    no_update: str
    run: Path

    def report(self) -> dict[str, Any]:
        """As JSON values; a perplexity that is not finite is None."""
        found = {name or "none": value if math.isfinite(value) else None for name, value in self.perplexities.items()}
        return {"perplexity": found, "dense": self.dense, "no_update": self.no_update}


def search_no_update(
    model: Path | str,
    recipe: Recipe,
    tokens: Tensor,
    validation: Tensor,
    out: Path | str,
    *,
    length: int,
    windows: int | None = None,
    candidates: str | Sequence[str] = "reduced",
    sparsity: float | None = None,
    statistics: Path | str | None = None,
    device: str = "auto",
) -> Search:
    """f(T) = perplexity on `validation` (token ids [n], in windows of `length`) of the model pruned by `recipe` with `no_update`
    T, for every candidate T, each from the same dense checkpoint and calibration `tokens`; the lowest wins (ties: fewer letters,
    then q before k before v). Use the validation split: the authors seem to have searched on the test split, which leaks.

    Runs go into folders of `out`, one a candidate. `sparsity` prunes the candidates to another share than the recipe's; then the
    winner has to be pruned anew. A model that overflows counts as infinitely bad. The paper calls this its dynamic update.
    """
    if recipe.method != "d2prune" or recipe.options.get("dynamic", "none") != "none":
        raise UserError("the search over no_update needs a recipe of d2prune with dynamic 'none'")
    if isinstance(candidates, str) and candidates not in CANDIDATES:
        raise unknown_name("d2prune candidates", candidates, CANDIDATES)
    tried = CANDIDATES[candidates] if isinstance(candidates, str) else tuple(candidates)
    goal = recipe if sparsity is None else replace(recipe, sparsity=sparsity)
    # A mistake in `validation` or `length` shows here; what fails after this is a pruned model that overflows.
    dense = perplexity(assemble(model, device=device), validation, length, windows)["perplexity"]
    found: dict[str, float] = {}
    for letters in tried:
        options = {**recipe.options, "no_update": letters or "none"}
        run = _folder(out, letters)
        api.prune(model, replace(goal, options=options), run, tokens=tokens, statistics=statistics, device=device)
        try:
            found[letters] = perplexity(assemble(model, run, device), validation, length, windows)["perplexity"]
        except UserError:
            found[letters] = math.inf
    winner = lowest_perplexity(found)
    return Search(found, dense, winner or "none", _folder(out, winner))


def _folder(out: Path | str, letters: str) -> Path:
    return Path(out) / f"no_update-{letters or 'none'}"
