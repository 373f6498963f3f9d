"""Inf and nan, in the weights and coming out of a method: refused with block, linear and reason, wherever they come from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import secateur
from secateur import Recipe, UserError
from secateur.engine import Solver
from secateur.evaluation.perplexity import perplexity
from secateur.finite import check_files, check_weights, not_finite, why_not_finite
from secateur.least_squares import check_hessian, damped
from secateur.methods.alps import ALPS
from secateur.methods.base import Target
from secateur.methods.magnitude import Magnitude
from secateur.methods.sparsegpt import SparseGPT
from secateur.methods.wanda import Wanda
from secateur.models.adapters import Site
from secateur.recovery.lsq import LeastSquares
from secateur.recovery.reconstruct import BlockReconstruction
from secateur.statistics import SiteAccumulator, SiteStatistics
from secateur.statistics.gradients import collect_gradients
from secateur.sweep import Factor, sweep

TinyModel = Callable[[str], Path]
NAN, INF = float("nan"), float("inf")
SITE = Site("input", ("one", "two"))


class Block(nn.Module):
    """Two linears behind a norm."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(width)
        self.one, self.two = nn.Linear(width, 8, bias=False), nn.Linear(width, 4, bias=False)
        self.requires_grad_(False)


def statistics(width: int = 16, scale: float = 1.0) -> SiteStatistics:
    sums = SiteAccumulator(width, "gram", torch.device("cpu"))
    sums.update(scale * torch.randn(4, 32, width, generator=torch.Generator().manual_seed(1)))
    return sums.finish()


def solver(recipe: Recipe, dtype: torch.dtype = torch.float32) -> Solver:
    """In front of block 7."""
    made = Solver(recipe)
    made.position, made.stored_dtypes = 7, {f"{path}.weight": dtype for path in SITE.linears}
    return made


RECIPES = {
    "magnitude": Recipe("magnitude", 0.5),
    "magnitude row": Recipe("magnitude", 0.5, options={"group": "row"}),
    "wanda": Recipe("wanda", 0.5),
    "wanda variant": Recipe("wanda", 0.5, options={"use_variant": True}),
    "wanda 2:4": Recipe("wanda", pattern="2:4"),
    "sparsegpt": Recipe("sparsegpt", 0.5),
    "sparsegpt 2:4": Recipe("sparsegpt", pattern="2:4"),
    "alps": Recipe("alps", 0.5),
    "obs": Recipe("wanda", 0.5, update="obs"),
    "lsq": Recipe("wanda", 0.5, update="lsq"),
    "swaps": Recipe("wanda", 0.5, refinement="swaps"),
    "dsnot": Recipe("wanda", 0.5, refinement="dsnot"),
    "reselect": Recipe("sparsegpt", 0.5, refinement="reselect"),
}
UPDATING = [name for name in RECIPES if name in ("sparsegpt", "sparsegpt 2:4", "alps", "obs", "lsq", "reselect")]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("bad", "kind"), [(NAN, "nan"), (INF, "inf"), (-INF, "inf")])
def test_every_recipe_names_the_linear_whose_weight_it_is(recipe: str, bad: float, kind: str) -> None:
    block = Block()
    block.two.weight[1, 3] = bad
    with pytest.raises(UserError, match=rf"^block 7, input \(one, two\): two\.weight holds {kind}: "):
        solver(RECIPES[recipe]).site(block, SITE, statistics(), Target(0.5, RECIPES[recipe].pattern))


@pytest.mark.parametrize("recipe", [name for name in RECIPES if not name.startswith("magnitude")])
@pytest.mark.parametrize("part", ["input_sum", "input_square_sum", "gram"])
def test_statistics_are_blamed_where_they_are_to_blame(recipe: str, part: str) -> None:
    known, block = statistics(), Block()
    getattr(known, part).view(-1)[0] = NAN
    pattern = (
        r"^block 7, input \(one, two\): the statistics of its inputs hold nan, although the weights of this block are finite"
    )
    with pytest.raises(UserError, match=pattern) as raised:
        solver(RECIPES[recipe]).site(block, SITE, known, Target(0.5, RECIPES[recipe].pattern))
    assert "percdamp" not in str(raised.value)
    block.norm.weight[2] = INF
    with pytest.raises(UserError, match=r"since norm\.weight holds inf"):
        solver(RECIPES[recipe]).site(block, SITE, known, Target(0.5, RECIPES[recipe].pattern))


@pytest.mark.parametrize("recipe", UPDATING)
def test_a_new_weight_that_the_checkpoint_cannot_store_is_named(recipe: str) -> None:
    """Weights near the end of float16: what makes up for pruned ones lies beyond."""
    chosen, block = RECIPES[recipe], Block()
    block.two.weight.copy_(block.two.weight.sign() * 65_000)
    target = Target(0.5, chosen.pattern)
    site = Site("input", ("two",))
    # Inputs that all say the same: the survivors take over the whole of what the pruned ones did.
    inputs = torch.randn(4, 32, 1, generator=torch.Generator().manual_seed(1)).expand(-1, -1, 16)
    inputs = inputs + 0.01 * torch.randn(4, 32, 16, generator=torch.Generator().manual_seed(2))
    block.two.weight.abs_()
    sums = SiteAccumulator(16, "gram", torch.device("cpu"))
    sums.update(inputs)
    with pytest.raises(
        UserError, match=r"^block 7, two: a new weight of \d\.\d+e\+05 does not fit float16 \(largest 65504\), in"
    ):
        solver(chosen, torch.float16).site(block, site, sums.finish(), target)
    again = Block()
    again.two.weight.copy_(torch.full_like(again.two.weight, 65_000))
    for dtype in (torch.bfloat16, torch.float32):
        found = solver(chosen, dtype).site(again, site, sums.finish(), target)["two"].values
        assert found is not None and found.isfinite().all() and found.abs().max() > 65_504


def test_a_new_weight_that_is_no_number_is_named() -> None:
    values = torch.ones(4, 16)
    values[2, 2] = NAN
    with pytest.raises(UserError, match=r"^block 7, two: a new weight is nan, made of weights and statistics that are finite"):
        solver(RECIPES["sparsegpt"]).write("two", torch.ones(4, 16), torch.zeros(4, 16, dtype=torch.bool), values)


def test_what_is_pruned_may_be_anything() -> None:
    values, mask = torch.ones(4, 16), torch.zeros(4, 16, dtype=torch.bool)
    values[2, 2], mask[2, 2] = 1e30, True
    assert solver(RECIPES["wanda"], torch.float16).write("two", torch.ones(4, 16), mask, values).values is not None


def test_gradients_are_named() -> None:
    made, block = solver(Recipe("pruner_zero", 0.5)), Block()
    made.gradients = {path: torch.ones_like(getattr(block, path).weight) for path in SITE.linears}
    made.gradients["one"][0, 0] = INF
    with pytest.raises(UserError, match=r"^block 7, input \(one, two\): the gradients of one hold inf: collect them again"):
        made.site(block, SITE, statistics(), Target(0.5))


def spoilt(model: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint with one entry of one tensor set."""
    folder.mkdir()
    for file in model.iterdir():
        if file.name != "SHA256SUMS":
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(folder / "model.safetensors")
    tensors[name].view(-1)[3] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


PLACES = [
    "model.embed_tokens.weight",
    "model.layers.1.post_attention_layernorm.weight",
    "model.layers.2.mlp.up_proj.weight",
    "lm_head.weight",
]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("value", [NAN, -INF])
def test_a_model_loads_and_perplexity_names_the_tensor(name: str, value: float, tiny_model: TinyModel, tmp_path: Path) -> None:
    model = secateur.assemble(spoilt(tiny_model("llama"), tmp_path / "model", name, value), device="cpu")
    with pytest.raises(UserError, match=rf"^{name} holds {'nan' if value != value else 'inf'}: "):
        perplexity(model, torch.arange(64), 16)


@pytest.mark.parametrize("name", PLACES)
def test_zero_shot_and_fine_tuning_name_it_too(name: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    from secateur.evaluation.zeroshot import evaluate
    from secateur.finetune.recipes import FineTuning
    from secateur.finetune.train import finetune

    folder = spoilt(tiny_model("llama"), tmp_path / "model", name, NAN)
    tokenizer: Any = None  # nobody gets that far
    with pytest.raises(UserError, match=rf"^{name} holds nan: "):
        evaluate(secateur.assemble(folder, device="cpu"), tokenizer, tmp_path, ["boolq"])
    pytest.importorskip("peft")
    settings, tokens = FineTuning(train="lora", batch=2, micro_batch=2), torch.arange(64).reshape(4, 16)
    with pytest.raises(UserError, match=rf"model\.safetensors: {name} holds nan: "):
        finetune(folder, None, tokens, tmp_path / "out", work=tmp_path / "work", settings=settings, device="cpu")
    assert not (tmp_path / "out").exists() and not (tmp_path / "work").exists()


@pytest.mark.parametrize(("dtype", "advice"), [(torch.float32, "prune it less"), (torch.float16, "evaluate it in float32")])
def test_a_model_of_finite_weights_that_overflows_is_said_to(dtype: torch.dtype, advice: str, tiny_model: TinyModel) -> None:
    model = secateur.assemble(tiny_model("llama"), device="cpu").to(dtype)  # pyright: ignore[reportArgumentType]
    largest = torch.finfo(dtype).max
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(largest / 2)  # pyright: ignore[reportOptionalMemberAccess]
    pattern = rf"window \d is (nan|inf), although every weight is finite: the model overflows {str(dtype)[6:]}; {advice}"
    with pytest.raises(UserError, match=pattern):
        perplexity(model, torch.arange(64), 16)


@pytest.mark.parametrize("name", [*PLACES[:3], "model.norm.weight", "lm_head.weight"])
def test_gradients_say_where_it_begins(name: str, tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the reader, which refuses such a checkpoint as it is opened."""
    from secateur.statistics import gradients

    folder = spoilt(tiny_model("llama"), tmp_path / "model", name, NAN)
    if hasattr(reader := __import__("secateur.models.reader", fromlist=["Reader"]).Reader, "check_finite"):
        monkeypatch.setattr(reader, "check_finite", lambda self, *arguments: None)
    tokens = torch.arange(48).reshape(2, 24)
    wanted = name.partition("layers.")[2].partition(".")[2] or name
    with pytest.raises(UserError, match=rf"{wanted} holds nan|what enters block 0 holds nan: an embedding"):
        collect_gradients(folder, tokens, tmp_path / "out", work=tmp_path / "work", settings={}, device="cpu", progress=False)
    assert gradients.SCALE == 100


def test_methods_by_themselves_say_what_they_met() -> None:
    weight, known, target = torch.randn(8, 16), statistics(), [Target(0.5)]
    broken = weight.clone()
    broken[0, 0] = INF
    for method in (Magnitude(), Magnitude(group="row"), Wanda(), Wanda(use_variant=True)):
        with pytest.raises(UserError, match=r"the scores are not finite, they hold (inf|nan): .* overflow fp32, or one of them"):
            method.prune([broken], known, target)
    with pytest.raises(UserError, match="the weights are not finite before the update, they hold inf"):
        SparseGPT().prune([weight, broken], known, target * 2)
    assert known.gram is not None
    odd = replace(known, gram=known.gram.clone().fill_diagonal_(NAN))
    for call in (
        lambda: SparseGPT().prune([weight], odd, target),
        lambda: ALPS().prune([weight], odd, target),
        lambda: LeastSquares().update([weight], odd, Magnitude().prune([weight], odd, target)),
    ):
        with pytest.raises(UserError, match="the Hessian is not finite: the statistics of the calibration inputs hold nan"):
            call()
    with pytest.raises(UserError, match="the Hessian overflows fp32, with 3e\\+38 on its diagonal"):
        damped(torch.full((4,), 3e38).diag(), 0.01)
    check_hessian(torch.eye(3))


def test_an_inverse_that_overflows_is_not_blamed_on_the_weights() -> None:
    factor = Factor(torch.full((4, 4), NAN).triu(), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(
        UserError, match="the inverse of the Hessian is not finite, although the weights and the Hessian are: raise"
    ):
        sweep([torch.randn(2, 4)], factor, 4, targets=[Target(0.5)])


def test_alps_says_that_it_cannot_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(matrix: Tensor) -> None:
        raise torch.linalg.LinAlgError("linalg.eigh: failed\nto converge")  # pyright: ignore[reportPrivateImportUsage]

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    with pytest.raises(
        UserError, match=r"^alps cannot factor the Hessian \(linalg.eigh: failed to converge\): raise percdamp 0.01$"
    ):
        ALPS().prune([torch.randn(8, 16)], statistics(), [Target(0.5)])


@pytest.mark.parametrize(
    ("which", "place"), [(0, "before the block in the pruned model"), (1, "behind the block in the dense model")]
)
def test_reconstruct_does_not_blame_its_rate_for_hidden_states(which: int, place: str) -> None:
    weight, states = nn.Parameter(torch.randn(4, 4), requires_grad=False), [torch.randn(2, 3, 4), torch.randn(2, 3, 4)]
    states[which][0, 0, 0] = NAN
    with pytest.raises(UserError, match=f"^reconstruct: the hidden states {place} hold nan") as raised:
        BlockReconstruction().fit(lambda part: part @ weight, [(weight, torch.ones(4, 4))], states[0], states[1], seed=0)
    assert "rate" not in str(raised.value)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_one_entry_is_found_wherever_it_is(dtype: torch.dtype) -> None:
    whole = torch.arange(-30, 30).reshape(5, 12).float()
    assert not_finite(whole.to(dtype)) is None and not_finite(whole.to(dtype).T) is None
    for place in range(60):
        for bad, kind in ((NAN, "nan"), (INF, "inf"), (-INF, "inf")):
            if dtype == torch.float8_e4m3fn and kind == "inf":  # which it has not
                continue
            broken = whole.clone()
            broken.view(-1)[place] = bad
            assert not_finite(broken.to(dtype)) == kind and not_finite(broken.to(dtype).T) == kind
    assert not_finite(torch.empty(0)) is None and not_finite(torch.tensor([1, 2])) is None


def test_both_at_once_is_called_nan() -> None:
    assert not_finite(torch.tensor([INF, NAN, 1.0])) == "nan"


def test_modules_and_files(tmp_path: Path) -> None:
    block = Block()
    check_weights(block)
    assert why_not_finite(block, "the block") == "the block overflows fp32, although all its weights are finite"
    block.two.weight[0, 0] = NAN
    with pytest.raises(UserError, match=r"^two\.weight holds nan: fetch or make the model again$"):
        check_weights(block)
    assert why_not_finite(block, "the block") == "two.weight holds nan: fetch or make the model again"
    save_file({"a": torch.ones(3), "b": torch.tensor([1.0, INF])}, tmp_path / "x.safetensors")
    save_file({"mask": torch.ones(3, dtype=torch.uint8)}, tmp_path / "y.safetensors")
    check_files([tmp_path / "y.safetensors"])
    with pytest.raises(UserError, match=r"x\.safetensors: b holds inf"):
        check_files(sorted(tmp_path.iterdir()))
