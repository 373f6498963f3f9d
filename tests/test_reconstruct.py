"""Block reconstruction: what it trains, towards what, and what it must not touch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import secateur
from secateur import Recipe, UserError
from secateur.masks import PrunedStore
from secateur.models.linears import linear_at, weight_of
from secateur.models.stream import StreamedModel, run_block
from secateur.recovery.reconstruct import BlockReconstruction

TinyModel = Callable[[str], Path]


def reconstruct(**options: float) -> dict[str, object]:
    return {"update": "reconstruct", "update_options": {"epochs": 20, **options}}


def error_after_each_block(folder: Path, run: Path, tokens: Tensor) -> list[float]:
    """Mean relative squared distance of the pruned model's hidden states from the dense model's, block by block."""
    model, errors = StreamedModel(folder, torch.device("cpu")), []
    dense, arguments = model.embed(tokens, len(tokens))
    pruned = dense.clone()
    with torch.no_grad():
        for index in range(len(model)):
            forward = partial(run_block, arguments=arguments[len(tokens)][index])
            with model.block(index) as block:
                dense = forward(block, dense)
                for path, found in PrunedStore(run).read(index).items():
                    found.apply(weight_of(linear_at(block, path)))
                pruned = forward(block, pruned)
            errors.append(float(((pruned - dense).square().sum(-1) / dense.square().sum(-1)).mean()))
    return errors


@pytest.mark.parametrize("propagation", ["block", "site"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt-post-norm", "qwen3"])
def test_every_block_comes_nearer_to_the_dense_model(
    family: str, propagation: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    folder, runs = tiny_model(family), {}
    for name, extra in {"plain": {}, "fitted": reconstruct()}.items():
        recipe = Recipe("wanda", 0.6, propagation=propagation, **extra)  # pyright: ignore[reportArgumentType]
        runs[name] = secateur.prune(folder, recipe, tmp_path / name, tokens=tokens, device="cpu")
    plain, fitted = (error_after_each_block(folder, run, tokens) for run in runs.values())
    assert all(after < 0.7 * before for before, after in zip(plain, fitted, strict=True)), (plain, fitted)
    first, other = (PrunedStore(run).read(0) for run in runs.values())
    if propagation == "block":  # the first block's masks are chosen before anything is trained
        assert all(torch.equal(first[path].mask, other[path].mask) for path in first)
    for index in range(len(StreamedModel(folder, torch.device("cpu")))):
        found = PrunedStore(runs["fitted"]).read(index)
        assert all(abs(linear.mask.float().mean().item() - 0.6) < 0.05 and linear.values is not None for linear in found.values())


def test_only_survivors_move_and_the_objective_is_relative() -> None:
    """One linear map with a large and a small token: the small one must count as much as the large one."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator).requires_grad_(False)
    keep = torch.rand(6, 8, generator=generator) > 0.5
    weight[~keep] = 0
    before = weight.clone()
    inputs = torch.randn(8, 5, 8, generator=generator)
    inputs[:, 0] *= 100
    targets = inputs @ torch.randn(6, 8, generator=generator).T

    def relative() -> Tensor:
        return ((inputs @ weight.T - targets).square().sum(-1) / targets.square().sum(-1)).mean(dim=0)

    start = relative()
    BlockReconstruction(rate=0.1, epochs=60, batch=3).fit(lambda hidden: hidden @ weight.T, [(weight, keep)], inputs, targets, 0)
    assert not weight[~keep].any() and not torch.equal(weight, before) and not weight.requires_grad
    assert (relative() < start).all()
    # The optimum of the same objective, row by row in fp64.
    scaled = (inputs / targets.norm(dim=-1, keepdim=True)).reshape(-1, 8).double()
    wanted = (targets / targets.norm(dim=-1, keepdim=True)).reshape(-1, 6).double()
    best = torch.zeros(6, 8, dtype=torch.float64)
    for row in range(6):
        best[row, keep[row]] = torch.linalg.lstsq(scaled[:, keep[row]], wanted[:, row]).solution
    optimum = float((scaled @ best.T - wanted).square().sum(-1).mean())
    assert optimum <= float(relative().mean()) < optimum + 0.25 * (float(start.mean()) - optimum)


def test_weights_stay_where_training_would_make_them_worse() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, weight = torch.randn(6, 4, 8, generator=generator), torch.randn(6, 8, generator=generator)
    keep = torch.rand(6, 8, generator=generator) > 0.5
    weight[~keep] = 0
    before, targets = weight.clone(), inputs @ torch.randn(6, 8, generator=generator).T
    BlockReconstruction(rate=10.0).fit(lambda hidden: hidden @ weight.T, [(weight, keep)], inputs, targets, 0)
    assert torch.equal(weight, before)


def test_the_pruned_models_inputs_meet_the_dense_models_outputs(
    tiny_model: TinyModel, tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(self: BlockReconstruction, forward: Any, survivors: Any, inputs: Tensor, targets: Tensor, seed: int) -> None:
        seen.append((inputs.clone(), targets.clone()))

    monkeypatch.setattr(BlockReconstruction, "fit", spy)
    folder = tiny_model("llama")
    run = secateur.prune(folder, Recipe("wanda", 0.6, update="reconstruct"), tmp_path / "run", tokens=tokens, device="cpu")
    model = StreamedModel(folder, torch.device("cpu"))
    dense, arguments = model.embed(tokens, len(tokens))
    pruned = dense.clone()
    with torch.no_grad():
        for index, (inputs, targets) in enumerate(seen):
            torch.testing.assert_close(inputs, pruned)
            with model.block(index) as block:
                dense = run_block(block, dense, arguments[len(tokens)][index])
                for path, found in PrunedStore(run).read(index).items():
                    found.apply(weight_of(linear_at(block, path)))
                pruned = run_block(block, pruned, arguments[len(tokens)][index])
            torch.testing.assert_close(targets, dense)
    assert len(seen) == len(model) and not torch.allclose(pruned, dense)


def test_a_block_that_the_allocation_leaves_dense_is_not_trained(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    recipe = Recipe("wanda", pattern="5:8", allocation=["6:8", "5:8", "dense"], update="reconstruct")
    run = PrunedStore(secateur.prune(tiny_model("llama"), recipe, tmp_path / "run", tokens=tokens, device="cpu"))
    assert all(linear.values is not None for linear in run.read(1).values())
    assert all(linear.values is None for linear in run.read(2).values())


def test_it_starts_from_what_the_method_left(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    """With a vanishing rate the weights are those of the method and the refinement before it."""
    folder, runs = tiny_model("llama"), []
    for name, extra in {"method": {}, "still": reconstruct(rate=1e-12, epochs=1)}.items():
        recipe = Recipe("sparsegpt", 0.5, propagation="block", **extra)  # pyright: ignore[reportArgumentType]
        runs.append(PrunedStore(secateur.prune(folder, recipe, tmp_path / name, tokens=tokens, device="cpu")).read(0))
    for path, found in runs[0].items():
        values = runs[1][path].values
        assert found.values is not None and values is not None
        torch.testing.assert_close(values, found.values, rtol=1e-5, atol=1e-7)


def test_dense_statistics_are_not_enough(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    folder = tiny_model("llama")
    statistics = secateur.calibrate(folder, tokens, tmp_path / "stats", device="cpu")
    recipe = Recipe("wanda", 0.5, propagation="dense", update="reconstruct")
    with pytest.raises(UserError, match="update reconstruct needs the inputs of every block: use propagation 'block' or 'site'"):
        secateur.prune(folder, recipe, tmp_path / "run", statistics=statistics, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "rate 0.0: must be above 0"),
        ({"rate": float("inf")}, "rate inf: must be above 0 and finite"),
        ({"epochs": 0}, "epochs 0, batch 2: must both be at least 1"),
        ({"batch": 0}, "epochs 4, batch 0: must both be at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BlockReconstruction(**options)


def test_a_rate_that_explodes_is_named(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    recipe = Recipe("wanda", 0.5, update="reconstruct", update_options={"rate": 1e30, "epochs": 5})
    with pytest.raises(UserError, match="block 0: reconstruct: the weights are no longer finite; lower the rate"):
        secateur.prune(tiny_model("llama"), recipe, tmp_path / "run", tokens=tokens, device="cpu")
