"""Allocations: their promises for any measures, from a model to a table to a pruned run, and the whole field on every family."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import secateur
from secateur import METHODS, Recipe, UserError
from secateur.allocation import ALLOCATIONS
from secateur.allocation.alpha import AlphaPruning, tail_exponent
from secateur.allocation.base import Allocation
from secateur.allocation.dlp import DLP
from secateur.allocation.owl import OWL
from secateur.allocation.uniform import Uniform
from secateur.masks import PrunedStore
from secateur.recovery import UPDATES
from secateur.refinement import REFINEMENTS
from secateur.sparsity import check_pattern, measure
from tests.conftest import FAMILIES

TinyModel = Callable[[str], Path]
RULES: list[Allocation] = [
    Uniform(),
    OWL(),
    OWL(lam=0.2),
    DLP(),
    DLP(alpha=0.05, statistic="mean"),
    AlphaPruning(),
    AlphaPruning(0.1),
]
MEASURES = st.lists(st.floats(0.1, 100), min_size=2, max_size=20)


@pytest.mark.parametrize("rule", RULES, ids=str)
@given(measures=MEASURES, sparsity=st.floats(0.3, 0.6))
def test_the_mean_is_the_target_and_equal_blocks_get_it(rule: Allocation, measures: list[float], sparsity: float) -> None:
    keep = rule.keep_ratios(measures, sparsity)
    assert sum(keep) / len(keep) == pytest.approx(1 - sparsity, abs=1e-6)
    assert rule.keep_ratios([3.0] * 5, sparsity) == pytest.approx([1 - sparsity] * 5)
    spread = max(keep) - min(keep)
    if isinstance(rule, OWL) and max(measures) - min(measures) > 1e-3:
        assert spread == pytest.approx(2 * rule.lam, abs=1e-6)


def test_what_each_rule_prunes_most() -> None:
    measures = [1.0, 2.0, 4.0]
    assert OWL().keep_ratios(measures, 0.5) == sorted(OWL().keep_ratios(measures, 0.5)), "outliers protect"
    for rule in (DLP(), AlphaPruning()):
        keep = rule.keep_ratios(measures, 0.5)
        assert keep == sorted(keep, reverse=True), "a high median score, or a light tail, does not"


def test_too_much_is_refused_and_too_little_is_a_hundredth() -> None:
    with pytest.raises(UserError, match="spread it less"):
        DLP(alpha=0.6).sparsities([1.0, 2.0], 0.5)
    assert OWL(lam=0.3).sparsities([1.0, 2.0, 1.5], 0.2)[1] == 0.01


def test_heavier_tails_have_smaller_exponents() -> None:
    generator = torch.Generator().manual_seed(0)
    light = torch.randn(64, 64, generator=generator)
    heavy = light @ torch.diag(torch.arange(1, 65).float() ** -1.5) @ light.T
    assert tail_exponent(heavy) < tail_exponent(light)
    with pytest.raises(UserError, match="no spectrum"):
        tail_exponent(torch.zeros(4, 4))


@pytest.mark.parametrize("name", ["alpha", "dlp", "owl"])
def test_from_a_model_to_a_run(name: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    folder = tiny_model("llama")
    statistics = secateur.calibrate(folder, tokens, tmp_path / "stats", bundle="moments", device="cpu")
    found = secateur.allocate(folder, ALLOCATIONS.get(name)(), 0.5, statistics=statistics, device="cpu", progress=False)
    assert json.loads(json.dumps(found)) == found and len(set(found["table"])) == 3
    run = secateur.prune(folder, Recipe("wanda", 0.5, allocation=found["table"]), tmp_path / "run", tokens=tokens, device="cpu")
    blocks = measure(run, folder)["blocks"].values()
    for share, block in zip(found["table"], blocks, strict=True):
        assert block["sparsity"] == pytest.approx(share, abs=1 / 32)


def test_mixed_patterns_reach_their_blocks(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    folder, table = tiny_model("llama"), ["6:8", "5:8", "dense"]
    assert OWL(lam=2.0).patterns([1.0, 2.0, 3.0], "5:8") == ["6:8", "5:8", "4:8"]
    run = secateur.prune(folder, Recipe("wanda", pattern="5:8", allocation=table), tmp_path / "run", tokens=tokens, device="cpu")
    assert check_pattern(run, table) == []
    assert check_pattern(run, "5:8")
    assert not any(linear.mask.any() for linear in PrunedStore(run).read(2).values())
    with pytest.raises(UserError, match="must be a pattern n:8"):
        Recipe("wanda", pattern="5:8", allocation=["2:4", "5:8", "5:8"]).targets(3)
    with pytest.raises(UserError, match="no n:m form"):
        DLP().patterns([1.0, 2.0], "2:4")


@pytest.mark.parametrize("family", ["gpt2", "mistral-window", "opt-pre-norm", "qwen3"])
def test_every_part_runs_on_every_family(family: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    assert family in FAMILIES
    folder = tiny_model(family)
    gradients = secateur.gradients(folder, tokens, tmp_path / "gradients", device="cpu")
    (tmp_path / "tree.json").write_text('{"data": "mul", "left": {"data": "W"}, "right": {"data": "mms", "left": {"data": "G"}}}')
    options = {"formula": {"file": str(tmp_path / "tree.json")}}
    recipes = [Recipe(name, 0.5, options=options.get(name, {})) for name in METHODS]
    recipes += [Recipe("wanda", 0.5, allocation=[0.4, 0.5, 0.6], refinement=name, update="lsq") for name in REFINEMENTS]
    recipes += [Recipe("wanda", pattern="2:4", update=name) for name in UPDATES]
    statistics = secateur.calibrate(folder, tokens, tmp_path / "statistics", device="cpu")
    for name in ALLOCATIONS:
        table = secateur.allocate(folder, ALLOCATIONS.get(name)(), 0.5, statistics=statistics, device="cpu")["table"]
        recipes.append(Recipe("wanda", 0.5, allocation=table))
    for number, recipe in enumerate(recipes):
        run = secateur.prune(folder, recipe, tmp_path / str(number), tokens=tokens, gradients=gradients, device="cpu")
        assert measure(run, folder)["achieved"] == pytest.approx(0.5, abs=0.02), recipe
        assert check_pattern(run, recipe.pattern) == []
