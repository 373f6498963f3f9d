"""The one loop of pruning: walk the blocks, observe, allocate, solve, propagate, save."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import trange

from secateur.artifacts import read_json, write_json
from secateur.errors import UserError
from secateur.finite import REMEDY, not_finite, weight_not_finite, why_not_stored
from secateur.masks import PrunedLinear, PrunedStore
from secateur.methods.base import Surroundings, Target
from secateur.models.adapters import Site
from secateur.models.linears import as_stored, linear_at, weight_of
from secateur.outputs import check_output
from secateur.recipe import Recipe
from secateur.recovery.base import BlockUpdate
from secateur.statistics import SiteStatistics, bundle_covers
from secateur.statistics.gradients import open_gradients
from secateur.statistics.store import open_statistics
from secateur.walk import Walk, on_arrival

Results = dict[str, PrunedLinear]


@torch.no_grad()
def prune(
    model: Path,
    recipe: Recipe,
    out: Path,
    *,
    work: Path,
    settings: Mapping[str, Any],
    tokens: Tensor | None = None,
    statistics: Path | None = None,
    gradients: Path | None = None,
    overwrite: bool = False,
    device: str = "auto",
    memory: int = 2 << 30,
    progress: bool = True,
    on_block: Callable[[int, int, Results], None] | None = None,
) -> None:
    """Prune every block of the checkpoint folder `model` → folder `out` with masks and, where they changed, values.

    `tokens` [sequences, length] feed the propagations `block` and `site`; `statistics` is the calibration folder of `dense`
    (neither for a method that needs no data); `gradients` is the folder of `collect_gradients`, for a method that reads them.
    `memory`, in bytes, decides whether `site` runs the batch at once or recomputes the block up to each site: the result is
    the same. `work` is where finished blocks wait for a restart. `on_block` is told of every block once it is safe there: its
    index, how many there are, and its linears.

    Raises, before any work, a `UserError` if `out` exists, unless it is an untouched result of ours and `overwrite` is set.
    """
    check_output(out, [model, statistics, gradients], overwrite, work)
    solve = Solver(recipe)
    fit = solve.update if isinstance(solve.update, BlockUpdate) else None
    if fit and recipe.propagation == "dense":
        raise UserError(f"update {recipe.update} needs the inputs of every block: use propagation 'block' or 'site'")
    magnitudes = open_gradients(gradients, model) if solve.method.gradients else None
    data_free = not bundle_covers(recipe.needs, "tokens")
    observes = not data_free and recipe.propagation != "dense"
    if observes and tokens is None:
        raise UserError(f"propagation {recipe.propagation!r} of {recipe.method} needs calibration tokens: pass tokens")
    known = None if observes else open_statistics(statistics, recipe.needs)
    walk = Walk(model, tokens, device, {"settings": settings, "recipe": recipe.settings()}, work)
    targets, store = recipe.targets(len(walk.model)), PrunedStore(work)
    recipe.check_widths(walk.model.adapter.widths(walk.model.config_json))
    walk.start()
    goal = recipe.pattern if recipe.pattern != "unstructured" else f"{recipe.sparsity:.0%}"

    if not observes:
        hidden, first = None, store.blocks
    else:
        hidden = walk.begin(recipe.needs, recipe.propagation == "site", memory, few=fit.batch if fit else 0)
        first, solve.attention = hidden.position, walk.attention
    for index in trange(first, len(walk.model), desc=f"prune {recipe.method} {goal}", unit="block", disable=not progress):
        with walk.model.block(index) as block:
            solve.position, solve.stored_dtypes, solve.choices = index, walk.model.stored_dtypes, {}
            solve.gradients = magnitudes.read(index, walk.model.device) if magnitudes else {}
            entered = _follow_dense(walk, block) if fit else None
            if hidden is None:
                sites = known.read(index, walk.model.device) if known else {}
                results = solve.block(block, walk.sites, sites, targets[index])
            elif recipe.propagation == "block":
                results = solve.block(block, walk.sites, walk.observe(block, keep=False), targets[index])
                if not fit:
                    hidden.run(block)
            else:
                results = _site_by_site(walk, block, solve, targets[index])
            if fit and entered is not None:
                _fit(walk, block, fit, entered, solve, results)
            _note_choices(work, index, solve.choices)
            store.write(index, results)
        if hidden is not None:
            hidden.advance(walk.checkpoint)
        if on_block:
            on_block(index, len(walk.model), results)
    walk.finish(out, settings, overwrite)


def _note_choices(work: Path, index: int, choices: Mapping[str, Any]) -> None:
    """Add what the method decided in this block, if it decides anything, to the run's `choices.json`."""
    if choices:
        known = read_json(work / "choices.json") if (work / "choices.json").is_file() else {}
        write_json(work / "choices.json", known | {f"block_{index:03d}": choices})


def _follow_dense(walk: Walk, block: nn.Module) -> Tensor:
    """What enters the block in the pruned model; the dense model's hidden states pass the block, which is dense still."""
    walk.hidden.run(block, dense=True)
    return walk.hidden.states.clone()


def _fit(walk: Walk, block: nn.Module, update: BlockUpdate, entered: Tensor, solve: "Solver", results: Results) -> None:
    """Train the survivors of the pruned block towards the dense model; the batch passes the block again with them. Linears of
    which nothing was pruned, or everything, stay as they are."""
    hidden = walk.hidden
    assert hidden.dense is not None, "the walk began without the dense model"
    linears = {path: linear_at(block, path) for path, found in results.items() if found.mask.any() and not found.mask.all()}
    if linears:
        survivors: list[tuple[Tensor, Tensor]] = [
            (linear.weight, as_stored(linear, ~results[path].mask)) for path, linear in linears.items()
        ]
        try:
            update.fit(partial(walk.few(update.batch), block), survivors, entered, hidden.dense, seed=hidden.position)
        except UserError as error:
            raise UserError(f"block {hidden.position}: {error}") from None
    for path, linear in linears.items():
        results[path] = solve.write(path, weight_of(linear), results[path].mask, weight_of(linear))
    hidden.states.copy_(entered)
    hidden.run(block)


class Solver:
    """A recipe's method, refinement and update on one site, written into the block: what runs next sees pruned weights."""

    def __init__(self, recipe: Recipe) -> None:
        self.method, self.refinement, self.update = recipe.build_method(), recipe.build_refinement(), recipe.build_update()
        self.position = 0  # which block is in memory
        self.stored_dtypes: Mapping[str, torch.dtype] = {}  # new weights are rounded to what the checkpoint stores
        self.attention: Callable[..., Iterator[Tensor]] | None = None  # of the walk, where calibration inputs are at hand
        self.choices: dict[str, Any] = {}  # what the method noted of the block in memory
        self.gradients: Mapping[str, Tensor] = {}  # of the block in memory, by linear, if the method reads them

    def site(self, block: nn.Module, site: Site, statistics: SiteStatistics, target: Target) -> Results:
        """Prune the linears of one site."""
        weights = [weight_of(linear_at(block, path)) for path in site.linears]
        if self.gradients:
            statistics = replace(statistics, gradients=tuple(self.gradients[path] for path in site.linears))
        around = Surroundings(self.attention and partial(self.attention, block, site), self.choices)
        targets = [target] * len(weights)
        try:
            _check_finite(block, site, weights, statistics)
            solved = self.method.prune_in(weights, statistics, targets, around)
            solved = self.refinement.refine(weights, statistics, solved, targets)
            solved = self.update.update(weights, statistics, solved)
        except UserError as error:
            raise UserError(f"block {self.position}, {site.name} ({', '.join(site.linears)}): {error}") from None
        results = {}
        for path, weight, pruned in zip(site.linears, weights, solved, strict=True):
            results[path] = self.write(path, weight, pruned.mask, pruned.weight)
        return results

    def write(self, path: str, weight: Tensor, mask: Tensor, values: Tensor | None) -> PrunedLinear:
        """Put a result for one linear into its weight [out, in], rounded as the checkpoint will have it."""
        stored = None
        if values is not None:
            exact, dtype = values[~mask], self.stored_dtypes[f"{path}.weight"]
            stored = exact.to(dtype)
            if not_finite(stored):
                raise UserError(f"block {self.position}, {path}: {why_not_stored(exact, dtype)}")
        result = PrunedLinear(mask, stored)
        result.apply(weight)
        return result

    def block(
        self, block: nn.Module, sites: tuple[Site, ...], statistics: Mapping[str, SiteStatistics], target: Target
    ) -> Results:
        """Prune all sites of a block with statistics that are known already (none: the method needs no data)."""
        results: Results = {}
        for site in sites:
            results |= self.site(block, site, statistics.get(site.name, SiteStatistics(0, 0)), target)
        return results


def _check_finite(block: nn.Module, site: Site, weights: list[Tensor], statistics: SiteStatistics) -> None:
    """Every method takes its inputs for numbers: say which are not, before one blames its own settings for what comes out."""
    for path, weight in zip(site.linears, weights, strict=True):
        if kind := not_finite(weight):
            raise UserError(f"{path}.weight holds {kind}: {REMEDY}")
    for path, gradient in zip(site.linears, statistics.gradients or (), strict=False):  # a method checks that there is one each
        if kind := not_finite(gradient):
            raise UserError(f"the gradients of {path} hold {kind}: collect them again")
    sums = (statistics.input_sum, statistics.input_square_sum, statistics.gram)
    kind = next((found for part in sums if part is not None and (found := not_finite(part))), None)
    if kind and (found := weight_not_finite(block)):
        raise UserError(f"the statistics of its inputs hold {kind}, since {found}: {REMEDY}")
    if kind:
        raise UserError(
            f"the statistics of its inputs hold {kind}, although the weights of this block are finite: the model overflows fp32 "
            "before it, or a weight there is not finite (secateur.perplexity names such a weight)"
        )


def _site_by_site(walk: Walk, block: nn.Module, solve: Solver, target: Target) -> Results:
    """Prune each site when the whole batch has arrived at it. If the batch runs in one piece, that is one forward pass;
    otherwise the block is recomputed up to each site, piece by piece."""
    results: Results = {}

    def arrive(site: Site) -> Callable[[Tensor], None]:
        def action(inputs: Tensor) -> None:
            accumulator = walk.accumulator(block, site)
            accumulator.update(inputs)
            results.update(solve.site(block, site, accumulator.finish(), target))

        return action

    if walk.hidden.batch >= len(walk.hidden.states):
        with on_arrival(block, [(site, arrive(site)) for site in walk.sites]):
            walk.hidden.run(block)
        return results
    for site in walk.sites:
        accumulator = walk.accumulator(block, site)
        walk.arrive(block, {site: accumulator})
        results.update(solve.site(block, site, accumulator.finish(), target))
    walk.hidden.run(block)
    return results
