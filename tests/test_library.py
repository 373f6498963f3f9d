"""The README's library example, a method registered in ten lines, and the way a user's mistakes come back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import secateur
from secateur import METHODS, Recipe, UserError
from secateur.masks import PrunedStore
from secateur.methods.base import ScoreMethod
from secateur.models.tokenizer import load_tokenizer
from secateur.statistics import SiteStatistics

TinyModel = Callable[[str], Path]


def test_a_new_method_is_ten_lines(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Spread(ScoreMethod):
        """Weights whose input varies little go: |w| times the input's standard deviation."""

        needs = "moments"

        def score(self, weight: Tensor, statistics: SiteStatistics) -> Tensor:
            assert statistics.input_sum is not None and statistics.input_square_sum is not None
            mean, square = statistics.input_sum / statistics.tokens, statistics.input_square_sum / statistics.tokens
            return weight.abs() * (square - mean**2).clamp(min=0).sqrt()

    METHODS.add("spread", Spread)
    try:
        for recipe in (Recipe("spread", 0.5), Recipe("spread", pattern="2:4", propagation="block", update="obs")):
            name = recipe.pattern.replace(":", "-")
            run = secateur.prune(tiny_model("qwen3"), recipe, tmp_path / name, tokens=tokens, device="cpu")
            assert all(linear.mask.float().mean() == 0.5 for linear in PrunedStore(run).read(1).values())
    finally:
        del METHODS._entries["spread"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "wand", "sparsity": 0.5}, "unknown method 'wand'; did you mean wanda"),
        ({"method": "wanda", "sparsity": 1.0}, "sparsity 1.0: must be at least 0 and below 1"),
        ({"method": "wanda", "sparsity": -0.1}, "sparsity -0.1: must be at least 0 and below 1"),
        ({"method": "wanda"}, "an unstructured recipe needs a sparsity"),
        ({"method": "wanda", "sparsity": 0.4, "pattern": "2:4"}, "sparsity 0.4: pattern 2:4 is 0.5"),
        ({"method": "wanda", "pattern": "5:7"}, "the layer's 32 inputs are not divisible by 7"),
        ({"method": "wanda", "sparsity": 0.5, "propagation": "sites"}, "unknown propagation 'sites'; did you mean site"),
        ({"method": "wanda", "sparsity": 0.5, "options": {"variant": True}}, "did you mean use_variant"),
        ({"method": "wanda", "sparsity": 0.5, "allocation": [0.5]}, "1 entries: must have one for each of the 3 blocks"),
        ({"method": "wanda", "sparsity": 0.5, "allocation": [0.1, 0.1, 0.1]}, "mean 0.1000: must be the run's sparsity 0.5"),
        ({"method": "wanda", "sparsity": 0.5, "allocation": "owl"}, "allocation 'owl': must be 'uniform' or a table"),
        ({"method": "wanda", "sparsity": 0.5, "update": "lsq", "update_options": {"damp": 1}}, "did you mean percdamp"),
        ({"method": "wanda", "sparsity": 0.5, "refinement": "swap"}, "did you mean swaps"),
        ({"method": "pruner_zero", "sparsity": 0.5}, "gradients"),
        ({"method": "wanda", "pattern": "2:4", "options": {"use_variant": True}}, "use_variant has no 2:4 form"),
        ({"method": "wanda", "sparsity": 0.5, "count": "about"}, "count 'about': must be 'reference' or 'exact'"),
    ],
)
def test_mistakes_come_back_as_one_clear_line(
    arguments: dict[str, object], message: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        recipe = Recipe(**arguments)  # pyright: ignore[reportArgumentType]
        secateur.prune(tiny_model("llama"), recipe, tmp_path / "run", tokens=tokens, device="cpu")
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_another_models_run_is_refused(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    run = secateur.prune(tiny_model("llama"), Recipe("wanda", 0.5), tmp_path / "run", tokens=tokens, device="cpu")
    with pytest.raises(UserError, match=r"another model's run|the model's"):
        secateur.assemble(tiny_model("qwen3"), run, device="cpu")


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer.*cannot be read"):
        load_tokenizer(tmp_path)


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    (model := tmp_path / "model").mkdir()
    (model / "config.json").write_text('{"model_type": "lama"}')
    with pytest.raises(UserError, match="unknown model family 'lama'; did you mean llama"):
        secateur.prune(model, Recipe("magnitude", 0.5), tmp_path / "run")


@pytest.mark.parametrize("family", ["llama-tied", "opt-post-norm", "gpt2", "qwen3"])
def test_an_export_is_a_plain_checkpoint_with_the_same_logits(
    family: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from secateur.export import export
    from secateur.sparsity import check_pattern, measure

    folder = tiny_model(family)
    run = secateur.prune(folder, Recipe("sparsegpt", pattern="2:4"), tmp_path / "run", tokens=tokens, device="cpu")
    export(folder, run, tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        assert torch.equal(plain(tokens.long()).logits, secateur.assemble(folder, run, device="cpu")(tokens.long()).logits)
    assert measure(run, folder)["achieved"] == 0.5 and check_pattern(run, "2:4") == []
    assert check_pattern(run, "3:4")
    with pytest.raises(UserError, match="exists already"):
        export(folder, run, tmp_path / "plain")
