"""The model card of an exported checkpoint: what was done to which model, and how to load it."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.artifacts import SUMS, identity, read_json
from secateur.sparsity import measure

FRONT = re.compile(r"\A---\s*\n(.*?)\n---\s*\n", re.DOTALL)
# Entries of a run's settings that say where the pipeline keeps things, not what was done.
PLACES = ("source", "shares", "watch", "gradients", "model", "data", "validation")


def model_card(model: Path, pruned: Path | None, tuned: Path | None, mode: str | None, dtype: str | None) -> str:
    """Markdown with the Hub's front matter. `model`, `pruned` and `tuned` are folders, as `export` takes them."""
    done = " and ".join([*(["pruned"] if pruned else []), *(["fine-tuned"] if tuned else [])]) or "copied"
    lines = [
        *_front_matter(model, pruned),
        f"# {model.resolve().name}, {done} with secateur",
        "",
        "A plain checkpoint: dense tensors, with zeros where weights were pruned. `from_pretrained` loads it. It takes as much",
        "memory and time as the original, because dense kernels multiply zeros like any other number.",
        "",
        *_table("What was done", _rows(pruned, tuned, mode, dtype)),
    ]
    if pruned:
        found = measure(pruned, model)
        share = f"{found['pruned']:,} of {found['total']:,} weights of the pruned layers are zero ({found['achieved']:.2%})."
        lines += [f"Measured from the masks: {share}", ""]
    lines += ["The licence and the intended use of the original model apply.", ""]
    return "\n".join(lines)


def _front_matter(model: Path, pruned: Path | None) -> list[str]:
    """The Hub's fields; the licence is the original's, as its own card states it."""
    card = model / "README.md"
    front = FRONT.match(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    stated = [
        line
        for line in (front[1].splitlines() if front else [])
        if re.match(r"(license|license_name|license_link|language):\s*\S", line)
    ]
    return ["---", "library_name: transformers", f"tags: [{'pruned, ' if pruned else ''}secateur]", *stated, "---", ""]


def _rows(pruned: Path | None, tuned: Path | None, mode: str | None, dtype: str | None) -> Iterator[tuple[str, Any]]:
    for folder, prefix in ((pruned, ""), (tuned, "fine-tuning: ")):
        settings = read_json(folder / "settings.json") if folder and (folder / "settings.json").is_file() else {}
        for part, named in (("run", ""), ("recipe", ""), ("calibration", "calibration: ")):
            found = settings.get(part)
            yield from (
                (f"{prefix}{named}{key}", value)
                for key, value in (found.items() if isinstance(found, Mapping) else ())
                if key not in PLACES
            )
        if folder and (folder / SUMS).is_file():
            yield f"{prefix}SHA-256 of the {'adapter' if prefix else 'masks'}", identity(folder)
    yield "fine-tuning: mode", mode
    yield "stored as", dtype


def _table(title: str, rows: Iterator[tuple[str, Any]]) -> list[str]:
    """A table of what was asked for; what is empty or none says nothing."""
    told = [(key, value) for key, value in rows if value not in (None, "none", "", {}, [])]
    if not told:
        return []
    text = [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for key, value in told]
    return [
        f"## {title}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in text),
        "",
    ]
