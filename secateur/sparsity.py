"""How sparse a pruned run is, measured from its stored masks and nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.artifacts import read_json
from secateur.errors import UserError
from secateur.masks import PrunedStore
from secateur.models.adapters import adapter_for
from secateur.patterns import is_n_of_m, parse_pattern
from secateur.shares import DENSE

BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16}


def measure(pruned: Path, model: Path) -> dict[str, Any]:
    """Sparsity per layer, per block and in total, and sizes in bytes.

    Counted over the prunable linears alone. `dense`: those linears at the checkpoint's precision. `masks`, `values`: what this
    run stores. `packed`: masks and every survivor at the checkpoint's precision, all that a sparse copy needs.
    """
    config = read_json(model / "config.json")
    store = PrunedStore(pruned)
    if store.blocks != adapter_for(config).blocks(config):
        raise UserError(f"{pruned} holds {store.blocks} blocks, the model {model} has {adapter_for(config).blocks(config)}")
    blocks = {}
    for index in range(store.blocks):
        counts = {path: (int(linear.mask.count_nonzero()), linear.mask.numel()) for path, linear in store.read(index).items()}
        layers = {path: _share(*count) for path, count in counts.items()}
        total = [sum(column) for column in zip(*counts.values(), strict=True)]
        blocks[f"{index:03d}"] = {"layers": layers, "sparsity": total[0] / total[1]}
    every = [layer for block in blocks.values() for layer in block["layers"].values()]
    gone, total = sum(layer["pruned"] for layer in every), sum(layer["total"] for layer in every)
    itemsize = BITS[config.get("dtype") or config.get("torch_dtype") or "float32"] // 8
    stored = store.bytes()
    sizes = {**stored, "dense": total * itemsize, "packed": stored["masks"] + (total - gone) * itemsize}
    return {"achieved": gone / total, "pruned": gone, "total": total, "bytes": sizes, "blocks": blocks}


def _share(pruned: int, total: int) -> dict[str, Any]:
    return {"pruned": pruned, "total": total, "sparsity": pruned / total}


def check_pattern(pruned: Path, patterns: str | Sequence[str]) -> list[str]:
    """Layers whose masks do not have exactly n zeros in every group of m inputs (empty: all do). `patterns` is one for all
    blocks, or one for each; unstructured and dense blocks have nothing to check."""
    store, wrong = PrunedStore(pruned), []
    for index in range(store.blocks):
        pattern = patterns if isinstance(patterns, str) else patterns[index]
        if pattern == DENSE or (group := parse_pattern(pattern)) is None:
            continue
        wrong += [
            f"block {index}, {path}: is not {pattern}"
            for path, linear in store.read(index).items()
            if not is_n_of_m(linear.mask, *group)
        ]
    return wrong
