"""The library's front door: statistics and pruning in one call each, without any pipeline."""

import hashlib
from pathlib import Path

from torch import Tensor

from secateur import engine
from secateur.artifacts import identity, temporary
from secateur.recipe import Recipe
from secateur.statistics.collect import collect
from secateur.statistics.gradients import collect_gradients
from secateur.tokens import check_shape


def calibrate(
    model: Path | str,
    tokens: Tensor,
    out: Path | str,
    *,
    bundle: str = "gram",
    overwrite: bool = False,
    device: str = "auto",
) -> Path:
    """Statistics of the dense model for any number of `dense` runs, in the folder `out`.

    Raises a `UserError` if `out` exists; with `overwrite` an earlier result there is replaced, but nothing else.
    """
    out = Path(out)
    settings = {"bundle": bundle, "tokens": _digest(tokens)}
    work = temporary(out)
    collect(Path(model), tokens, bundle, out, work=work, settings=settings, overwrite=overwrite, device=device)
    return out


def gradients(model: Path | str, tokens: Tensor, out: Path | str, *, overwrite: bool = False, device: str = "auto") -> Path:
    """Gradient magnitudes of the dense model, for the methods that read them, in the folder `out`.

    Raises a `UserError` if `out` exists; with `overwrite` an earlier result there is replaced, but nothing else.
    """
    out = Path(out)
    settings = {"bundle": "gradients", "tokens": _digest(tokens)}
    work = temporary(out)
    collect_gradients(Path(model), tokens, out, work=work, settings=settings, overwrite=overwrite, device=device)
    return out


def prune(
    model: Path | str,
    recipe: Recipe,
    out: Path | str,
    *,
    tokens: Tensor | None = None,
    statistics: Path | str | None = None,
    gradients: Path | str | None = None,
    overwrite: bool = False,
    device: str = "auto",
) -> Path:
    """Prune the checkpoint folder `model` into the run folder `out` (masks, and values where the method changes them).

    Give `tokens` for the propagations `site` and `block`, a folder made by `calibrate` for `dense`, and one made by `gradients`
    for a method that reads them. A call that was interrupted continues after its last finished block.

    Raises a `UserError` if `out` exists; with `overwrite` an earlier result there is replaced, but nothing else.
    """
    out = Path(out)
    settings = {"recipe": recipe.settings(), "tokens": None if tokens is None else _digest(tokens)}
    if statistics is not None:
        settings["statistics"] = identity(Path(statistics))
    if gradients is not None:
        settings["gradients"] = identity(Path(gradients))
    engine.prune(
        Path(model),
        recipe,
        out,
        work=temporary(out),
        settings=settings,
        tokens=tokens,
        statistics=None if statistics is None else Path(statistics),
        gradients=None if gradients is None else Path(gradients),
        overwrite=overwrite,
        device=device,
    )
    return out


def _digest(tokens: Tensor) -> str:
    return hashlib.sha256(check_shape(tokens).cpu().numpy().tobytes()).hexdigest()
