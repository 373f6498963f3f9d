"""The library's front door: statistics and pruning in one call each, without any pipeline."""

import hashlib
from pathlib import Path

from torch import Tensor

from secateur import engine
from secateur.artifacts import temporary
from secateur.recipe import Recipe
from secateur.statistics.collect import collect


def calibrate(model: Path | str, tokens: Tensor, out: Path | str, *, bundle: str = "gram", device: str = "auto") -> Path:
    """Statistics of the dense model for any number of `dense` runs, in the folder `out`."""
    out = Path(out)
    settings = {"bundle": bundle, "tokens": _digest(tokens)}
    collect(Path(model), tokens, bundle, out, work=temporary(out), settings=settings, device=device)
    return out


def prune(
    model: Path | str,
    recipe: Recipe,
    out: Path | str,
    *,
    tokens: Tensor | None = None,
    statistics: Path | str | None = None,
    device: str = "auto",
) -> Path:
    """Prune the checkpoint folder `model` into the run folder `out` (masks, and values where the method changes them).

    Give `tokens` for the propagations `site` and `block`, a folder made by `calibrate` for `dense`. A call that was
    interrupted continues after its last finished block.
    """
    out = Path(out)
    settings = {"recipe": recipe.settings(), "tokens": None if tokens is None else _digest(tokens)}
    engine.prune(
        Path(model),
        recipe,
        out,
        work=temporary(out),
        settings=settings,
        tokens=tokens,
        statistics=None if statistics is None else Path(statistics),
        device=device,
    )
    return out


def _digest(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.cpu().numpy().tobytes()).hexdigest()
