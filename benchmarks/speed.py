"""Wall time of pruning against its floor and against a straightforward loop: `python -m benchmarks.speed MODEL`.

MODEL is a checkpoint folder, after `make run` artifacts/models/smollm2. 32 sequences of 512 random tokens, 50 %.

Floor, from what is measured in the same process: forward passes of the blocks (one for `site`, two for `block`), and the
multiplications of one triangle of each site's Gram matrix, of each factorisation (2/3 width³: a Cholesky factor and its
inverse) and of each sweep (rows · width²), at the rate of a large matrix product. Every figure is the median of the repetitions;
ours, floor and straightforward are measured in turns, so that a machine that slows down slows all of them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks import straightforward
from secateur import Recipe, engine
from secateur.determinism import prepare
from secateur.models.conversion import stock_names
from secateur.models.linears import weight_of
from secateur.models.stream import StreamedModel, run_block

CPU = torch.device("cpu")


def first_blocks(source: Path, blocks: int, folder: Path) -> None:
    """The checkpoint cut to its first blocks."""
    config = json.loads((source / "config.json").read_text())
    model = StreamedModel(source, CPU)
    inside = f"{model.adapter.blocks_path}."
    names = model.reader.names()
    kept = [name for name in names if not name.startswith(inside) or int(name[len(inside) :].split(".")[0]) < blocks]
    save_file(stock_names(model.model, model.reader.read(kept)), folder / "model.safetensors")
    layers = next(key for key in ("num_hidden_layers", "n_layer") if key in config)
    (folder / "config.json").write_text(json.dumps(config | {layers: blocks}))


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def prune(folder: Path, recipe: Recipe, **data: Any) -> None:
    """One run of the checkpoint in `folder` from scratch, on the CPU and without a progress bar; `data` is what it reads."""
    with tempfile.TemporaryDirectory() as name:
        out, work = Path(name) / "run", Path(name) / "work"
        engine.prune(folder, recipe, out, work=work, settings={}, device="cpu", progress=False, **data)


def matmul_rate() -> float:
    """Multiply-adds per second of a large fp32 product."""
    one = torch.randn(2048, 2048)
    return 10 * 2048**3 / seconds(lambda: [one @ one for _ in range(10)])


@torch.no_grad()
def forward_time(model: StreamedModel, tokens: torch.Tensor) -> float:
    """One dense forward pass through all blocks, sequence by sequence, without embedding and weight loading."""
    hidden, arguments = model.embed(tokens, 1)
    total = 0.0
    for index in range(len(model)):
        with model.block(index) as block:
            total += seconds(lambda: [run_block(block, part, arguments[1][index]) for part in hidden.split(1)])  # noqa: B023
    return total


def solve_operations(model: StreamedModel, tokens: int) -> dict[str, float]:
    """Multiply-adds per model: one Gram triangle, one factorisation and one sweep per site."""
    counts = {"gram": 0.0, "factorisation": 0.0, "sweep": 0.0}
    with model.block(0) as block:
        for site in model.adapter.sites:
            shapes = [weight_of(block.get_submodule(path)).shape for path in site.linears]  # pyright: ignore[reportArgumentType]
            rows, width = sum(shape[0] for shape in shapes), shapes[0][1]
            counts["gram"] += tokens * width * (width + 1) / 2
            counts["factorisation"] += width**3 / 3
            counts["sweep"] += rows * width**2
    return {name: count * len(model) for name, count in counts.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--blocks", type=int, default=10, help="cut the model to its first blocks (default 10)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    tokens = torch.randint(0, 49000, (32, 512), generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first_blocks(arguments.model, arguments.blocks, folder)
        model = StreamedModel(folder, CPU)
        operations = solve_operations(model, tokens.numel())
        times: dict[str, list[float]] = {}

        def note(label: str, value: float) -> None:
            times.setdefault(label, []).append(value)

        for _ in range(arguments.repetitions):
            rate = matmul_rate()
            note("rate", rate)
            note("forward", forward_time(model, tokens))
            for part, count in operations.items():
                note(part, count / rate)
            for method in ("wanda", "sparsegpt"):
                for propagation in ("site", "block"):
                    recipe = Recipe(method, 0.5, propagation=propagation)
                    note(f"{method} {propagation}", seconds(lambda recipe=recipe: prune(folder, recipe, tokens=tokens)))
                note(
                    f"{method} straightforward",
                    seconds(lambda method=method: straightforward.prune(StreamedModel(folder, CPU), tokens, method, 0.5)),
                )
    show({label: statistics.median(values) for label, values in times.items()}, arguments.blocks)


def show(median: dict[str, float], blocks: int) -> None:
    """Seconds, then ratios."""
    print(f"{blocks} blocks, 32 x 512 tokens, {2 * median['rate'] / 1e9:.0f} GFLOP/s")
    parts = ", ".join(f"{part} {median[part]:.1f} s" for part in ("forward", "gram", "factorisation", "sweep"))
    print(f"floors: {parts}")
    print(f"{'':18}{'ours':>8}{'floor':>8}{'loop':>8}{'ours/floor':>12}{'loop/ours':>11}")
    for method in ("wanda", "sparsegpt"):
        solves = sum(median[part] for part in ("gram", "factorisation", "sweep")) if method == "sparsegpt" else 0.0
        loop = median[f"{method} straightforward"]
        for propagation, passes in (("site", 1), ("block", 2)):
            ours, floor = median[f"{method} {propagation}"], passes * median["forward"] + solves
            print(f"{method + ' ' + propagation:18}{ours:7.1f}s{floor:7.1f}s{loop:7.1f}s{ours / floor:12.2f}{loop / ours:11.2f}")


if __name__ == "__main__":
    main()
