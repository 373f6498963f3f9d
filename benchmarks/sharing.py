"""One calibration for many runs against each run by itself: `python -m benchmarks.sharing MODEL`.

MODEL is a checkpoint folder, after `make run` artifacts/models/smollm2. Magnitude, Wanda, SparseGPT and D2Prune with the
propagation `dense`, at 50 %, 60 % and 2:4, on 32 sequences of 512 random tokens, cut to the first blocks.

together: the statistics of the bundle that serves all of them, once, then every run. alone: for every run the statistics that
it needs itself, then the run. straightforward: for every run the two-pass loop of `benchmarks/straightforward.py`, which exists
for Wanda and SparseGPT at 50 % and counts for all their targets. D2Prune's published loop is SparseGPT's with more statistics, so
that SparseGPT's counts for it is in our disfavour; magnitude counts as it does alone. Every calibration
and every run (always with the statistics that serve all) is timed once and counted as often as it would happen. Evaluations,
downloads and the start of processes are left out: they would be the same.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks import straightforward
from benchmarks.speed import CPU, first_blocks, prune, seconds
from secateur import Recipe
from secateur.determinism import prepare
from secateur.models.stream import StreamedModel
from secateur.statistics.collect import collect

METHODS = ("magnitude", "wanda", "sparsegpt", "d2prune")
TARGETS = ((0.5, "unstructured"), (0.6, "unstructured"), (None, "2:4"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--blocks", type=int, default=10, help="cut the model to its first blocks (default 10)")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    tokens = torch.randint(0, 49000, (32, 512), generator=torch.Generator().manual_seed(0))
    recipes = [Recipe(name, sparsity, pattern, propagation="dense") for name in METHODS for sparsity, pattern in TARGETS]
    with tempfile.TemporaryDirectory() as name:
        root, folder = Path(name), Path(name) / "model"
        folder.mkdir()
        first_blocks(arguments.model, arguments.blocks, folder)

        def calibrate(bundle: str) -> None:
            settings = {"bundle": bundle}
            collect(folder, tokens, bundle, root / bundle, work=root / "work", settings=settings, device="cpu", progress=False)

        calibrate("tokens")  # imports and caches are paid for before anything is timed
        calibrations = {bundle: seconds(lambda b=bundle: calibrate(b)) for bundle in ("moments", "gram", "outputs")}
        calibrations["nothing"] = 0.0
        runs = [seconds(lambda r=recipe: prune(folder, r, statistics=root / "outputs")) for recipe in recipes]
        loops = {
            method: seconds(lambda m=method: straightforward.prune(StreamedModel(folder, CPU), tokens, m, 0.5))
            for method in ("wanda", "sparsegpt")
        }
        loops["d2prune"] = loops["sparsegpt"]
    own = [calibrations[recipe.needs] + run for recipe, run in zip(recipes, runs, strict=True)]
    together, alone = calibrations["outputs"] + sum(runs), sum(own)
    straight = sum(loops.get(recipe.method, time) for recipe, time in zip(recipes, own, strict=True))
    print(f"{arguments.blocks} blocks, 32 x 512 tokens, {arguments.threads} threads, {len(recipes)} runs")
    print("calibration: " + ", ".join(f"{bundle} {time:.1f} s" for bundle, time in calibrations.items()))
    for method in METHODS:
        times = [time for recipe, time in zip(recipes, runs, strict=True) if recipe.method == method]
        loop = f"   loop {loops[method]:.1f} s" if method in loops else ""
        print(f"{method:12}" + "".join(f"{time:7.1f}s" for time in times) + loop)
    print(f"together {together:.1f} s, alone {alone:.1f} s ({alone / together:.1f} x), straightforward {straight:.1f} s", end=" ")
    print(f"({straight / together:.1f} x)")


if __name__ == "__main__":
    main()
