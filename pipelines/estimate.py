"""What a selection will cost, from the sizes of the models alone: bytes on disk and floating-point operations.

Estimates, not measurements: a multiply-add counts two operations; attention scores, norms and tokenising are left out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.schema import FineTuneRow, PerplexityRow, RunRow, StatsRow, ZeroshotRow
from pipelines.tables import Tables
from secateur.finetune.recipes import recipe
from secateur.methods import METHODS
from secateur.models.adapters import adapter_for
from secateur.recovery import UPDATES
from secateur.recovery.base import BlockUpdate
from secateur.refinement import REFINEMENTS
from secateur.statistics import bundle_covers, join

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
RATE = 100e9  # operations a second, about what two processor cores reach in fp32
# (documents, tokens of all requests of one document), rounded, with the stock tasks and an English tokenizer
TASKS = {
    "arc_challenge": (1172, 160),
    "arc_easy": (2376, 140),
    "boolq": (3270, 300),
    "hellaswag": (10042, 440),
    "openbookqa": (500, 80),
    "piqa": (1838, 100),
    "rte": (277, 180),
    "winogrande": (1267, 60),
}


@dataclass(frozen=True)
class Cost:
    """One stage. None: not known before the data or the model is there."""

    stage: str
    key: str
    bytes: float | None = 0
    operations: float | None = 0


@dataclass(frozen=True)
class Sizes:
    """What one model contributes to the estimates: weights of all prunable linears, of the output head, bytes of one
    weight, and the widths of the sites of one block with the rows of the linears that read them."""

    blocks: int
    linear: int
    head: int
    tied: bool
    weight_bytes: int
    sites: tuple[tuple[int, int], ...]

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Sizes":
        adapter = adapter_for(config)
        sizes, widths = adapter.sizes(config), adapter.widths(config)
        sites = [(widths[site.linears[0]][1], sum(widths[name][0] for name in site.linears)) for site in adapter.sites]
        return Sizes(
            sizes.blocks,
            sizes.blocks * sum(rows * width for rows, width in widths.values()),
            sizes.vocabulary * sizes.hidden,
            bool(config.get("tie_word_embeddings", True)),
            BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4),
            tuple(sites),
        )

    def gram(self, tokens: int) -> float:
        """Second moments of every site, one triangle each."""
        return self.blocks * tokens * float(sum(width * (width + 1) for width, _ in self.sites))

    def solve(self) -> float:
        """Factor and invert each site's Hessian once, then sweep the linears that share it."""
        return self.blocks * float(sum(width**3 * 4 / 3 + rows * width**2 for width, rows in self.sites))


def estimate(tables: Tables, configs: Mapping[str, Mapping[str, Any]]) -> Iterator[Cost]:
    """The cost of every stage, in the order of the tables."""
    sizes = {name: Sizes.of(config) for name, config in configs.items()}
    for key, row in tables.download.items():
        size = sizes.get(key.removeprefix("model-")) if row.kind == "model" else None
        yield Cost("download", key, size and (size.linear + size.head * (1 if size.tied else 2)) * size.weight_bytes)
    for key, row in tables.stats.items():
        yield _cost("calibrate-stats", key, sizes.get(row.model), lambda size, row=row: _stats(row, size))
    for key in tables.allocations:
        yield Cost("allocate", key)
    for key, row in tables.runs.items():
        tokens = _tokens(tables, row.source)
        yield _cost("prune", key, sizes.get(row.model), lambda size, row=row, tokens=tokens: _prune(row, size, tokens))
    for key, row in tables.finetunes.items():
        yield _cost("lora-finetune", key, sizes.get(row.model), lambda size, row=row: _finetune(row, size, tables))
    for key, row in tables.ppl.items():
        yield _cost("eval-ppl", key, sizes.get(row.model), lambda size, row=row: (0, _perplexity(row, size)))
    for key, row in tables.zeroshot.items():
        yield _cost("eval-zeroshot", key, sizes.get(row.model), lambda size, row=row: (0, _zeroshot(row, size)))
    yield Cost("report", "")


def _cost(stage: str, key: str, size: Sizes | None, of: Any) -> Cost:
    return Cost(stage, key, *(of(size) if size else (None, None)))


def _tokens(tables: Tables, source: str) -> int:
    stats = tables.stats.get(source.removeprefix("stats/"))
    return stats.samples * stats.length if stats else 0


def _stats(row: StatsRow, size: Sizes) -> tuple[float, float]:
    tokens = row.samples * row.length
    disk, operations = 4.0 * tokens, 0.0
    if row.bundle == "gradients":  # forwards, forwards again, and backwards
        return disk + 2 * size.linear, 8.0 * tokens * (size.linear + size.head)
    if bundle_covers(row.bundle, "moments"):
        disk += 4 * size.blocks * sum(2 * width for width, _ in size.sites)
        operations += 2.0 * tokens * size.linear
    if bundle_covers(row.bundle, "gram"):
        disk += 4 * size.blocks * sum(width * (width + 1) / 2 for width, _ in size.sites)
        operations += size.gram(tokens)
    if bundle_covers(row.bundle, "outputs"):  # every linear is computed once more, for its outputs
        disk += 16 * size.blocks * sum(width + rows for width, rows in size.sites)
        operations += 2.0 * tokens * size.linear
    return disk, operations


def _prune(row: RunRow, size: Sizes, tokens: int) -> tuple[float, float]:
    parts = (METHODS.get(row.method), REFINEMENTS.get(row.refinement), UPDATES.get(row.update))
    needs = join([part.needs for part in parts])
    changes = any(part.updates_weights for part in parts)
    disk = size.linear / 8 + (size.linear * (1 - row.sparsity) * size.weight_bytes if changes else 0)
    operations = size.solve() if bundle_covers(needs, "gram") else 0.0
    if row.propagation != "dense":
        operations += 2.0 * tokens * size.linear * (2 if row.propagation == "block" else 1)
        operations += size.gram(tokens) if bundle_covers(needs, "gram") else 0
        operations += 2.0 * tokens * size.linear if bundle_covers(needs, "outputs") else 0
        update = UPDATES.get(row.update)(**row.update_options)
        if isinstance(update, BlockUpdate):  # and the dense model's pass, and one with the new weights
            operations += 2.0 * tokens * size.linear * (2 + update.passes)
    return disk, operations


def _finetune(row: FineTuneRow, size: Sizes, tables: Tables) -> tuple[float, float]:
    settings = recipe(row.recipe, **row.options, train=row.training)
    stats = tables.stats[row.data.removeprefix("stats/")]
    looks = 2 + settings.epochs * stats.samples / settings.batch / settings.interval  # before, in between, after
    dense = settings.train == "dense"
    # a forward pass, one back through every layer, and for the survivors themselves one that makes their gradients
    operations = (
        settings.epochs * _tokens(tables, row.data) * (6.0 if dense else 4.0) + looks * _tokens(tables, row.validation) * 2.0
    )
    share = 1 - tables.runs[row.source.removeprefix("pruned/")].sparsity
    disk = share * size.linear * size.weight_bytes if dense else 0.0  # adapters are next to nothing
    return disk, operations * (size.linear + size.head)


def _perplexity(row: PerplexityRow, size: Sizes) -> float | None:
    return 2.0 * row.windows * row.length * (size.linear + size.head) if row.windows else None


def _zeroshot(row: ZeroshotRow, size: Sizes) -> float:
    tokens = sum(min(row.limit or documents, documents) * each for documents, each in (TASKS[task] for task in row.tasks))
    return 2.0 * tokens * (size.linear + size.head)


def human(value: float | None, unit: str) -> str:
    """`12.3 GB`; `?` for what is not known, `-` for nothing."""
    if value is None:
        return "?"
    if not value:
        return "-"
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} E{unit}"
