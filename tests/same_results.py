"""Are the results of two checkouts equal? `python -m tests.same_results OLD NEW` compares every tensor and every figure.

OLD and NEW are project folders in which the same studies ran. Tensors (models, statistics, masks, surviving values, adapters)
are compared bit for bit by name, figures (perplexities, accuracies, losses, counts) as numbers. Provenance, which says what code
and files a result came from, is left out. Prints a table; exit code 1 if anything differs, or is in one of the two only.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

FIGURES = ("ppl", "zeroshot", "sparsity", "finetune", "allocation")


def tensor_files(root: Path) -> set[str]:
    """Every safetensors file of finished work."""
    files = (file.relative_to(root / "artifacts") for file in (root / "artifacts").rglob("*.safetensors"))
    return {file.as_posix() for file in files if file.parts[0] != "unfinished"}


def same_tensors(old: Path, new: Path) -> tuple[int, list[str]]:
    """How many tensors two files hold, and the names of those that differ."""
    with safe_open(old, "pt") as one, safe_open(new, "pt") as other:
        names = set(one.keys()) | set(other.keys())
        both = set(one.keys()) & set(other.keys())
        wrong = [name for name in sorted(both) if not _equal(one.get_tensor(name), other.get_tensor(name))]
        return len(names), wrong + sorted(names - both)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(one.view(-1).view(torch.uint8), other.view(-1).view(torch.uint8))
    )


def figures(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number, string and null below a JSON value, less provenance."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key not in ("provenance", "settings"):
                yield from figures(entry, f"{path}/{key}")
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from figures(entry, f"{path}/{number}")
    else:
        yield path, value


def compare(old: Path, new: Path) -> list[tuple[str, int, list[str]]]:
    """Rows of the table: what, how many, which of them differ."""
    rows: dict[str, tuple[int, list[str]]] = {}

    def note(kind: str, count: int, wrong: list[str]) -> None:
        total, known = rows.get(kind, (0, []))
        rows[kind] = total + count, known + wrong

    before, after = tensor_files(old), tensor_files(new)
    for name in sorted(before | after):
        kind = f"tensors: {'/'.join(Path(name).parts[:2])}"
        if name in before & after:
            count, wrong = same_tensors(old / "artifacts" / name, new / "artifacts" / name)
            note(kind, count, [f"{name}: {tensor}" for tensor in wrong])
        else:
            note(kind, 1, [f"{name} is in one of the two only"])
    for part in FIGURES:
        names = {file.name for root in (old, new) for file in (root / "results" / part).glob("*.json")}
        for name in sorted(names):
            values = [
                dict(figures(json.loads(file.read_text()))) if (file := root / "results" / part / name).is_file() else {}
                for root in (old, new)
            ]
            keys = sorted(values[0].keys() | values[1].keys())
            missing = object()
            wrong = [key for key in keys if values[0].get(key, missing) != values[1].get(key, missing)]
            note(
                f"figures: {part}",
                len(keys),
                [f"{name}{key}: {values[0].get(key)} before, {values[1].get(key)} now" for key in wrong],
            )
    return [(kind, *row) for kind, row in sorted(rows.items())]


def main(old: str, new: str) -> int:
    """Print the table; 1 if anything differs."""
    rows = compare(Path(old), Path(new))
    for kind, count, wrong in rows:
        print(f"{kind:72} {count:6} {'equal' if not wrong else f'{len(wrong)} DIFFER'}")
        for line in wrong[:5]:
            print(f"    {line}")
    total, differ = sum(count for _, count, _ in rows), sum(len(wrong) for *_, wrong in rows)
    print(f"{total} compared, {differ} differ")
    return int(differ > 0 or not total)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
