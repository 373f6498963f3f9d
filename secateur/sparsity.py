"""How sparse a pruned run is, measured from its stored masks and nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from secateur.masks import PrunedStore
from secateur.models.adapters import adapter_for
from secateur.models.load import check_run
from secateur.models.skeleton import Skeleton
from secateur.patterns import is_n_of_m, parse_pattern
from secateur.shares import DENSE


def measure(pruned: Path, model: Path) -> dict[str, Any]:
    """Sparsity per layer, per block and in total, and sizes in bytes.

    Counted over the prunable linears alone. `dense`: those linears in the types in which the checkpoint
    stores them. `masks`, `values`: what this
    run stores. `packed`: masks and every survivor in those types, all that a sparse copy needs.
    """
    skeleton, store = Skeleton(model, torch.device("cpu")), PrunedStore(pruned)
    adapter = adapter_for(skeleton.checkpoint.config)
    check_run(skeleton.model.get_submodule(adapter.blocks_path), store)
    blocks, dense, survivors = {}, 0, 0
    for index in range(store.blocks):
        counts = {path: (int(linear.mask.count_nonzero()), linear.mask.numel()) for path, linear in store.read(index).items()}
        for path, (gone, total) in counts.items():
            itemsize = skeleton.reader.dtype(f"{adapter.blocks_path}.{index}.{path}.weight").itemsize
            dense, survivors = dense + total * itemsize, survivors + (total - gone) * itemsize
        layers = {path: _share(*count) for path, count in counts.items()}
        sums = [sum(column) for column in zip(*counts.values(), strict=True)]
        blocks[f"{index:03d}"] = {"layers": layers, "sparsity": sums[0] / sums[1]}
    every = [layer for block in blocks.values() for layer in block["layers"].values()]
    gone, total = sum(layer["pruned"] for layer in every), sum(layer["total"] for layer in every)
    stored = store.bytes()
    sizes = {**stored, "dense": dense, "packed": stored["masks"] + survivors}
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
