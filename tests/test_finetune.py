"""Training tiny models: the zeros stay, what was trained is what is merged, and equal trainings give equal bytes."""

import csv
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import TrainingArguments

import secateur
from secateur import Recipe, UserError
from secateur.artifacts import check_folder, identity, read_json, read_tensors
from secateur.examples import IGNORED, Examples
from secateur.finetune.load import attach, check_export, finetuned
from secateur.finetune.merge import unmerged
from secateur.finetune.origin import Origin
from secateur.finetune.recipes import EVERY_LINEAR, TRAININGS, FineTuning
from secateur.finetune.train import Step, finetune
from secateur.masks import PrunedStore
from secateur.models.linears import linear_at, weight_of
from tests.conftest import FAMILIES

TinyModel = Callable[[str], Path]
STEPS = 12
SETTINGS = FineTuning(
    targets=EVERY_LINEAR, batch=8, micro_batch=4, epochs=4, rate=0.02, warmup=2, interval=5, rank=4, alpha=8, dropout=0.1
)


def texts(count: int, first: int = 0) -> Tensor:
    """Blocks of 16 tokens that follow a rule, so that there is something to learn: each is 5 more than the last, of 17."""
    return ((torch.arange(first, first + count)[:, None] + 5 * torch.arange(16)) % 17 + 1).to(torch.int32)


TRAINED, HELD_OUT = texts(24), texts(4, first=5)


class Tuned(NamedTuple):
    """A fine-tuning on disk, and what it was made of."""

    model: Path
    run: Path
    out: Path
    curve: list[Step]

    @property
    def origin(self) -> Origin:
        return Origin(self.model, self.run)


@pytest.fixture(scope="module")
def pruned(tiny_model: TinyModel, tokens: Tensor, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """`pruned("gpt2")` → a run of SparseGPT, which moves weights too, on the tiny model of the family."""
    made: dict[str, Path] = {}
    root = tmp_path_factory.mktemp("runs")

    def make(family: str) -> Path:
        if family not in made:
            made[family] = secateur.prune(
                tiny_model(family), Recipe("sparsegpt", 0.5), root / family, tokens=tokens, device="cpu"
            )
        return made[family]

    return make


@pytest.fixture(scope="module")
def tuned(tiny_model: TinyModel, pruned: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Tuned]:
    """`tuned("gpt2", "lora")` → the family's run, fine-tuned once a session. Do not write into it."""
    made: dict[tuple[str, str], Tuned] = {}
    root = tmp_path_factory.mktemp("tuned")

    def make(family: str, train: str) -> Tuned:
        if (family, train) not in made:
            out, settings = root / f"{family}-{train}", replace(SETTINGS, train=train)
            curve = tune(tiny_model(family), pruned(family), out, settings)
            made[family, train] = Tuned(tiny_model(family), pruned(family), out, curve)
        return made[family, train]

    return make


def tune(model: Path, run: Path | None, out: Path, settings: FineTuning = SETTINGS, **others: Any) -> list[Step]:
    given: dict[str, Any] = {"held_out": HELD_OUT, "device": "cpu", "progress": False, "work": out.with_name(f"{out.name}-work")}
    return finetune(model, run, others.pop("examples", TRAINED), out, settings=settings, **given | others)


def zeros_are_the_mask(whole: Any, origin: Origin) -> None:
    """Every prunable linear of the model, adapted or not, is zero exactly where the run pruned it."""
    masks = origin.masks(origin.adapter.linears)
    assert len(masks) == origin.blocks * len(origin.adapter.linears)
    for name, mask in masks.items():
        assert 0 < mask.float().mean() < 1 and torch.equal(weight_of(linear_at(whole, name)) == 0, mask), name


def gain(curve: list[Step]) -> float:
    """Held-out perplexity after, as a share of that before."""
    before, after = curve[0].held_out_perplexity, curve[-1].held_out_perplexity
    assert before is not None and after is not None
    return after / before


def logits(whole: Any) -> Tensor:
    with torch.no_grad():
        return whole(HELD_OUT.long()).logits


# -- what issue 4 asks of every family --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["masked_merge", "masked_training", "dense"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_zero_pattern_is_the_runs_mask(family: str, mode: str, tuned: Callable[[str, str], Tuned]) -> None:
    found = tuned(family, TRAININGS[mode])
    whole = finetuned(found.model, found.run, found.out, mode, device="cpu")
    zeros_are_the_mask(whole, found.origin)
    assert not torch.equal(logits(whole), logits(secateur.assemble(found.model, found.run, device="cpu"))), "nothing was trained"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_trained_under_the_mask_is_what_is_merged(family: str, tuned: Callable[[str, str], Tuned]) -> None:
    from peft import set_peft_model_state_dict

    from secateur.finetune.masked import add_adapters

    found = tuned(family, "masked_lora")
    merged = finetuned(found.model, found.run, found.out, "masked_training", device="cpu")
    settings = FineTuning(**read_json(found.out / "settings.json")["recipe"])
    whole = secateur.assemble(found.model, found.run, device="cpu")
    adapted = add_adapters(whole, found.origin, settings.targets, settings)
    before = logits(adapted)
    set_peft_model_state_dict(adapted, read_tensors(found.out / "adapter_model.safetensors")[0])
    assert torch.allclose(logits(adapted.eval()), logits(merged), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, logits(merged), atol=1e-3)
    by_peft = adapted.merge_and_unload()  # pyright: ignore[reportCallIssue]
    zeros_are_the_mask(by_peft, found.origin)
    assert torch.allclose(logits(by_peft), logits(merged), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", ["lora", "masked_lora", "dense"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns(family: str, train: str, tuned: Callable[[str, str], Tuned]) -> None:
    curve = tuned(family, train).curve
    assert [row.step for row in curve] == list(range(STEPS + 1))
    assert [row.step for row in curve if row.held_out_perplexity is not None] == [0, 5, 10, STEPS]
    losses = [row.loss for row in curve[1:] if row.loss is not None]
    assert len(losses) == STEPS and losses[-1] < 0.97 * losses[0] and gain(curve) < 0.8
    rates = [row.learning_rate for row in curve[1:] if row.learning_rate is not None]
    assert rates[:3] == pytest.approx([0.0, 0.01, 0.02]) and rates[2:] == sorted(rates[2:], reverse=True)


# -- the adapters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "opt-post-norm", "gpt2"])
def test_unmerged_is_the_weight_plus_the_product(family: str, tuned: Callable[[str, str], Tuned]) -> None:
    from peft import PeftModel

    found = tuned(family, "lora")
    beside = finetuned(found.model, found.run, found.out, "unmerged", device="cpu")
    base, tensors = (
        secateur.assemble(found.model, found.run, device="cpu"),
        read_tensors(found.out / "adapter_model.safetensors")[0],
    )
    targets = read_json(found.out / "settings.json")["recipe"]["targets"]
    assert len(tensors) == 2 * len(targets) * found.origin.blocks
    for name in found.origin.names(targets):
        down, up = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
        assert down.shape[0] == up.shape[1] == SETTINGS.rank
        weight = weight_of(linear_at(base, name))
        weight.copy_(unmerged(weight, down, up, 2.0))
        assert (weight == 0).float().mean() < 0.25, "adapters fill zeros, except where an input or output is dead"
    assert torch.allclose(logits(beside), logits(base), atol=1e-4)
    plain = PeftModel.from_pretrained(secateur.assemble(found.model, found.run, device="cpu"), str(found.out))
    assert torch.equal(logits(plain.eval()), logits(beside)), "plain peft reads the folder"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dropout_falls_on_the_adapters_input_alone(family: str, tiny_model: TinyModel, pruned: TinyModel) -> None:
    from secateur.finetune.masked import MaskedLinear, add_adapters

    origin, settings = Origin(tiny_model(family), pruned(family)), replace(SETTINGS, train="masked_lora", dropout=0.5)
    path = origin.adapter.linears[0]
    whole = secateur.assemble(origin.model, origin.pruned, device="cpu")
    layer = add_adapters(whole, origin, [path], settings).get_base_model().get_submodule(origin.name(0, path))
    assert isinstance(layer, MaskedLinear)
    unknown: Any = layer  # to the type checker, all parts of a peft layer are modules
    base, mask = layer.base(), origin.masks([path])[origin.name(0, path)]
    down, up = (part["default"].weight for part in (unknown.lora_A, unknown.lora_B))
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(up, generator=generator)
    inputs = torch.randn(3, 7, down.shape[1], generator=generator)
    torch.manual_seed(1)
    found = layer.train()(inputs)
    torch.manual_seed(1)
    product = (up @ down * settings.scale).masked_fill(mask, 0)
    assert torch.allclose(found, base(inputs) + linear(layer.lora_dropout["default"](inputs), product), atol=1e-5)
    assert not torch.allclose(found, layer.eval()(inputs), atol=1e-2)
    wanted = torch.autograd.grad(linear(inputs, weight_of(base) + product, base.bias).square().sum(), [down, up])
    given = torch.autograd.grad(layer(inputs).square().sum(), [down, up])
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-3) for one, other in zip(given, wanted, strict=True))
    with layer_off(layer):
        assert torch.equal(layer(inputs), base(inputs))


class layer_off:
    """peft's own switch."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __enter__(self) -> None:
        self.layer.enable_adapters(False)

    def __exit__(self, *_: object) -> None:
        self.layer.enable_adapters(True)


# -- the folder -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train", "mode"), [("lora", "unmerged"), ("masked_lora", "masked_training"), ("dense", "dense")])
def test_the_folder_is_sealed_and_says_what_it_is(train: str, mode: str, tuned: Callable[[str, str], Tuned]) -> None:
    found = tuned("llama", train)
    assert check_folder(found.out) == [] and not found.out.with_name(f"{found.out.name}-work").exists()
    names = {path.relative_to(found.out).as_posix() for path in found.out.rglob("*") if path.is_file()}
    assert all(Path(name).suffix in ("", ".json", ".csv", ".safetensors") for name in names), "nothing pickled"
    everything = "".join((found.out / name).read_text() for name in names if Path(name).suffix in (".json", ".csv"))
    assert str(found.model) not in everything and "/tmp" not in everything and "runtime" not in everything
    record, outcome = read_json(found.out / "settings.json"), read_json(found.out / "outcome.json")
    assert record["recipe"] | {"length": 16, "blocks": 24, "validation": 4} == record["recipe"]
    assert record["origin"]["masks"] is True and record["held_out"] == Examples(HELD_OUT).digest()
    with (found.out / "loss.csv").open() as file:
        rows = [Step(*(None if value == "" else float(value) for value in row)) for row in list(csv.reader(file))[1:]]  # pyright: ignore
    assert rows == found.curve
    assert (outcome["steps"], outcome["kept_step"]) == (STEPS, STEPS)
    whole = finetuned(found.model, found.run, found.out, mode, device="cpu")
    figures = secateur.perplexity(whole, HELD_OUT.flatten(), 16)
    assert outcome["perplexity_after"] == found.curve[-1].held_out_perplexity == pytest.approx(figures["perplexity"], rel=1e-5)
    before = secateur.perplexity(secateur.assemble(found.model, found.run, device="cpu"), HELD_OUT.flatten(), 16)
    assert outcome["perplexity_before"] == pytest.approx(before["perplexity"], rel=1e-5)
    shapes = [(32, 32), (16, 32), (16, 32), (32, 32), (64, 32), (64, 32), (32, 64)]
    sizes = [rows * columns if train == "dense" else SETTINGS.rank * (rows + columns) for rows, columns in shapes]
    assert outcome["trained_parameters"] == 3 * sum(sizes)


@pytest.mark.parametrize(("family", "moving"), [("llama", ["self_attn.q_proj", "self_attn.v_proj"]), ("gpt2", ["attn.c_attn"])])
def test_only_the_survivors_of_the_targets_are_trained_in_dense(
    family: str, moving: list[str], tuned: Callable[[str, str], Tuned], tmp_path: Path
) -> None:
    found = tuned(family, "dense")
    tune(found.model, found.run, tmp_path / "dense", replace(SETTINGS, train="dense", targets=("q_proj", "v_proj")))
    found = found._replace(out=tmp_path / "dense")
    before, after = PrunedStore(found.run), PrunedStore(found.out)
    for block in range(3):
        for path, linear_before in before.read(block).items():
            linear_after = after.read(block)[path]
            assert torch.equal(linear_before.mask, linear_after.mask)
            assert linear_before.values is not None and linear_after.values is not None
            assert torch.equal(linear_before.values, linear_after.values) != (path in moving)
            assert linear_after.values.dtype == linear_before.values.dtype
    assert torch.equal(
        logits(secateur.assemble(found.model, found.out, device="cpu")),
        logits(finetuned(found.model, found.run, found.out, "dense", device="cpu")),
    ), "a dense fine-tuning is a run like any other"


def test_a_dense_model_can_be_trained_too(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = tiny_model("llama")
    curve = tune(model, None, tmp_path / "lora")
    assert gain(curve) < 0.8
    check_export(tmp_path / "lora", "unmerged")  # there are no zeros to fill
    beside, merged = (finetuned(model, None, tmp_path / "lora", mode, device="cpu") for mode in ("unmerged", "masked_merge"))
    assert torch.allclose(logits(beside), logits(merged), rtol=1e-4, atol=1e-4)
    tune(model, None, tmp_path / "dense", replace(SETTINGS, train="dense", targets=("q_proj", "v_proj")))
    run = PrunedStore(tmp_path / "dense").read(0)
    assert not any(linear.mask.any() for linear in run.values())
    assert run["self_attn.q_proj"].values is not None and run["self_attn.k_proj"].values is None


@pytest.mark.parametrize("train", ["lora", "masked_lora", "dense"])
def test_the_same_training_gives_the_same_bytes(
    train: str, tuned: Callable[[str, str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tuned("llama", train)
    torch.manual_seed(99)  # what happened before makes no difference
    monkeypatch.chdir(tmp_path)
    tune(found.model, found.run, Path("again"), replace(SETTINGS, train=train))
    assert identity(tmp_path / "again") == identity(found.out)
    tune(found.model, found.run, Path("seeded"), replace(SETTINGS, train=train, seed=1))
    assert identity(tmp_path / "seeded") != identity(found.out)


def test_nothing_asks_the_network(tuned: Callable[[str, str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something looks for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for train in ("lora", "dense"):
        found = tuned("llama", train)
        tune(found.model, found.run, tmp_path / train, replace(SETTINGS, train=train, epochs=1, interval=1))


@pytest.mark.parametrize("server", [None, "sqlite:///elsewhere.db"])
def test_mlflow_alone_is_told_and_only_if_it_is_named(
    server: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secateur.finetune import trainer

    asked: list[str] = []
    monkeypatch.setattr(trainer, "need", lambda work, *packages: asked.extend(packages))
    monkeypatch.setenv("WANDB_PROJECT", "p")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    arguments = trainer.training_arguments(SETTINGS, tmp_path, cuda=False, held_out=False)
    assert arguments.report_to == asked == (["mlflow"] if server else [])
    assert not arguments.push_to_hub


def test_half_precision_and_recomputing_are_for_cuda_alone(tmp_path: Path) -> None:
    from secateur.finetune.trainer import training_arguments

    here = training_arguments(replace(SETTINGS, autocast="bf16"), tmp_path, cuda=False, held_out=True)
    assert here.use_cpu and not (here.bf16 or here.fp16 or here.activation_checkpointing)


def test_processes_share_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.finetune.trainer import training_arguments

    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    assert training_arguments(SETTINGS, tmp_path, cuda=False, held_out=True).gradient_accumulation_steps == 1
    monkeypatch.setattr(TrainingArguments, "world_size", 3)
    with pytest.raises(UserError, match="batch 8: must be a multiple of micro_batch 4 times 3 processes"):
        training_arguments(SETTINGS, tmp_path, cuda=False, held_out=True)


def test_recomputing_activations_changes_nothing(
    tuned: Callable[[str, str], Tuned], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does to save memory, tried on the CPU."""
    own = TrainingArguments.__init__

    def recompute(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs |= {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
        own(self, *args, **kwargs)

    monkeypatch.setattr(TrainingArguments, "__init__", recompute)
    for train in ("masked_lora", "dense"):
        found = tuned("llama", train)
        curve = tune(found.model, found.run, tmp_path / train, replace(SETTINGS, train=train))
        for one, other in zip(curve[1:], found.curve[1:], strict=True):
            assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_micro_batches_change_rounding_only(tuned: Callable[[str, str], Tuned], tmp_path: Path) -> None:
    found, settings = tuned("llama", "masked_lora"), replace(SETTINGS, train="masked_lora", dropout=0.0)
    curves = [tune(found.model, found.run, tmp_path / str(size), replace(settings, micro_batch=size)) for size in (8, 2)]
    for one, other in zip(*[curve[1:] for curve in curves], strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)


def test_padded_examples_are_trained_on(tuned: Callable[[str, str], Tuned], tmp_path: Path) -> None:
    found = tuned("gpt2", "lora")
    present = torch.arange(16) >= torch.arange(24)[:, None] % 6
    labels = TRAINED.masked_fill(~present | (torch.arange(16) < 8), IGNORED)
    examples = Examples(TRAINED.masked_fill(~present, 0), labels, present)
    curve = tune(found.model, found.run, tmp_path / "padded", examples=examples)
    assert gain(curve) < 0.8


def test_the_best_step_is_kept(tuned: Callable[[str, str], Tuned], tmp_path: Path) -> None:
    found = tuned("llama", "masked_lora")
    settings = replace(SETTINGS, train="masked_lora", keep="best", rate=0.05, interval=1, warmup=0)
    # The held-out blocks backwards: the right tokens are learnt first, and then the wrong order.
    curve = tune(found.model, found.run, tmp_path / "best", settings, examples=TRAINED.flip(1))
    seen = {row.step: row.held_out_perplexity or 0 for row in curve[1:]}
    best = min(seen, key=lambda step: seen[step])
    outcome = read_json(tmp_path / "best" / "outcome.json")
    assert 1 < best < STEPS and outcome["kept_step"] == best
    whole = finetuned(found.model, found.run, tmp_path / "best", "masked_training", device="cpu")
    assert secateur.perplexity(whole, HELD_OUT.flatten(), 16)["perplexity"] == pytest.approx(seen[best], rel=1e-5)
    assert outcome["perplexity_after"] == seen[best]


# -- wrong inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "others", "message"),
    [
        ({"targets": ("q_prj",)}, {}, "unknown fine-tuning target of llama 'q_prj'; did you mean"),
        ({}, {"examples": TRAINED[:0]}, "there are no examples to train on"),
        ({}, {"held_out": TRAINED[:0]}, "there are no held-out examples"),
        ({}, {"examples": torch.zeros(2, 65, dtype=torch.int32)}, "training examples of 65 tokens: the model's context is 64"),
        ({}, {"held_out": torch.zeros(2, 65, dtype=torch.int32)}, "held-out examples of 65 tokens: the model's context is 64"),
        ({"keep": "best"}, {"held_out": None}, "keep best: needs held-out examples"),
        ({"train": "masked_lora"}, {"run": None}, "has no masks; use lora"),
        (
            {},
            {"examples": Examples(TRAINED, torch.full_like(TRAINED, IGNORED))},
            "training examples: no token is to be predicted",
        ),
        ({}, {"examples": TRAINED[:, :1]}, "length 1: fewer than 2 tokens predict nothing"),
        ({}, {"device": "cuda:7"}, "device 'cuda:7'"),
    ],
)
def test_mistakes_are_told_before_any_work(
    settings: dict[str, Any], others: dict[str, Any], message: str, tuned: Callable[[str, str], Tuned], tmp_path: Path
) -> None:
    found = tuned("llama", "lora")
    run = others.pop("run", found.run)
    with pytest.raises(UserError) as raised:
        tune(found.model, run, tmp_path / "out", replace(SETTINGS, **settings), **others)
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_ends_with_one_line(tuned: Callable[[str, str], Tuned], tmp_path: Path) -> None:
    found = tuned("llama", "lora")
    with pytest.raises(UserError, match=r"loss is (nan|inf|\d+).* at step \d+: lower the rate"):
        tune(found.model, found.run, tmp_path / "out", replace(SETTINGS, rate=1e30, warmup=0))
    assert not (tmp_path / "out").exists()


def test_a_broken_model_is_not_blamed_on_the_rate(tiny_model: TinyModel, tmp_path: Path) -> None:
    whole = secateur.assemble(tiny_model("llama"), device="cpu")
    torch.nn.init.constant_(whole.get_input_embeddings().weight, float("nan"))  # pyright: ignore[reportArgumentType]
    whole.save_pretrained(tmp_path / "broken")
    with pytest.raises(UserError, match=r"embed_tokens\.weight holds nan"):
        tune(tmp_path / "broken", None, tmp_path / "out")


def test_an_adapter_of_another_run_is_refused(
    tuned: Callable[[str, str], Tuned], pruned: TinyModel, tiny_model: TinyModel
) -> None:
    found = tuned("llama", "lora")
    for model, run, message in (
        (tiny_model("llama"), pruned("qwen3"), r"was fine-tuned for another run than .*qwen3"),
        (tiny_model("llama"), None, r"was fine-tuned for another run than the dense model"),
        (tiny_model("qwen3"), pruned("qwen3"), r"was fine-tuned for another model than .*qwen3"),
        (tiny_model("llama"), tuned("llama", "dense").out, r"was fine-tuned for another run than"),
    ):
        with pytest.raises(UserError, match=message):
            finetuned(model, run, found.out, "unmerged", device="cpu")
    with pytest.raises(UserError, match="holds no fine-tuning"):
        finetuned(found.model, found.run, found.run, "unmerged", device="cpu")


def test_modes_that_were_not_trained_for_are_refused(tuned: Callable[[str, str], Tuned]) -> None:
    for train, mode in (
        ("lora", "masked_training"),
        ("masked_lora", "unmerged"),
        ("masked_lora", "masked_merge"),
        ("dense", "unmerged"),
    ):
        found = tuned("llama", train)
        with pytest.raises(UserError, match=rf"merge mode '{mode}': .* was trained as {train}, which allows"):
            finetuned(found.model, found.run, found.out, mode, device="cpu")
    found = tuned("llama", "lora")
    with pytest.raises(UserError, match="unknown merge mode 'merged'"):
        attach(secateur.assemble(found.model, found.run, device="cpu"), found.out, "merged", found.origin)
    with pytest.raises(UserError, match="would fill the run's zeros"):
        check_export(found.out, "unmerged")
    for train, mode in (("lora", "masked_merge"), ("masked_lora", "masked_training"), ("dense", "dense")):
        check_export(tuned("llama", train).out, mode)
