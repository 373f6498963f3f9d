"""Calls of the library on a place with good inputs, for the tables of wrong ones."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import secateur
from secateur import Recipe
from secateur.allocation.owl import OWL
from secateur.export import export
from tests.wrong import TOKENS, Answer, good, tune

WANDA = Recipe("wanda", 0.5)
CPU: dict[str, Any] = {"device": "cpu"}
SHORT: dict[str, Any] = {"samples": 2, "length": 8}
TOKEN_TEXT = [" ".join(str(number) for number in range(96))] * 4


@dataclass(frozen=True)
class Place:
    """A folder with a model and one result of each kind that was made from it."""

    root: Path

    def __truediv__(self, name: str) -> Path:
        return self.root / name


@dataclass(frozen=True)
class Call(Answer):
    """A call; `says`, `fault`: as of every answer."""

    call: Callable[[Place], object] = lambda place: None


def row(name: str, call: Callable[[Place], object], *says: str, fault: str = "") -> Call:
    return Call(name, says, fault, call)


def prune(recipe: Any = WANDA, tokens: Any = TOKENS, device: Any = "cpu", **folders: str) -> Callable[[Place], object]:
    """`folders` are names below the place, of the arguments of `secateur.prune` and of its model and out."""

    def call(place: Place) -> object:
        named = {name: place / folder for name, folder in ({"model": "model", "out": "out"} | folders).items()}
        made = recipe() if callable(recipe) else recipe
        return secateur.prune(recipe=made, tokens=tokens, device=device, **named)  # pyright: ignore[reportArgumentType]

    return call


def calibrate(tokens: Any = TOKENS, **options: Any) -> Callable[[Place], object]:
    return lambda place: secateur.calibrate(place / "model", tokens, place / "out", **CPU | options)


def gradients(tokens: Any = TOKENS, **options: Any) -> Callable[[Place], object]:
    return lambda place: secateur.gradients(place / "model", tokens, place / "out", **CPU | options)


def exported(pruned: str | None = None, tuned: str | None = None, mode: Any = None, to: str = "out", **options: Any) -> Any:
    def call(place: Place) -> None:
        export(place / "model", pruned and place / pruned, place / to, tuned and place / tuned, mode, **options)  # pyright: ignore

    return call


def tuning(out: str = "out", pruned: str | None = None, **options: Any) -> Callable[[Place], object]:
    return lambda place: tune(place / "model", place / out, pruned=pruned and place / pruned, **options)  # pyright: ignore


def allocate(rule: Any = OWL, sparsity: Any = 0.5, statistics: str | None = "statistics", **options: Any) -> Any:
    def call(place: Place) -> object:
        folder = statistics and place / statistics
        return secateur.allocate(place / "model", rule(), sparsity, statistics=folder, device="cpu", progress=False, **options)

    return call


def sample(texts: Any = TOKEN_TEXT, **options: Any) -> Callable[[Place], object]:
    def call(place: Place) -> object:
        _, tokenizer = secateur.load(place / "model", device="cpu")
        return secateur.sample(texts, tokenizer, **SHORT | options)

    return call


def perplexity(ids: Any = TOKENS[0], length: Any = 8, **options: Any) -> Callable[[Place], object]:
    return lambda place: secateur.perplexity(secateur.assemble(place / "model", device="cpu"), ids, length, **options)


def assemble(model: Any = "model", pruned: str | None = None, **options: Any) -> Callable[[Place], object]:
    def call(place: Place) -> object:
        return secateur.assemble(place / model, pruned and place / pruned, **CPU | options)

    return call


def at(first: int, second: int, token: int) -> Tensor:
    """The good tokens with one other id."""
    wrong = TOKENS.clone()
    wrong[first, second] = token
    return wrong


def furnished(root: Path, tiny: Path) -> Place:
    """A place with a model, a run, statistics and gradients of it, a fine-tuning of the run, and an export."""
    place = Place(root)
    model = good(tiny, place / "model")
    secateur.prune(model, Recipe("magnitude", 0.5), place / "run", device="cpu")
    secateur.calibrate(model, TOKENS, place / "statistics", bundle="moments", device="cpu")
    secateur.gradients(model, TOKENS, place / "gradients", device="cpu")
    tune(model, place / "tuned", pruned=place / "run")
    export(model, place / "run", place / "exported")
    return place
