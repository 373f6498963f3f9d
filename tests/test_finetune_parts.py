"""The parts of fine-tuning that need no training: merging, targets, recipes, data, checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.artifacts import read_json, write_tensors
from secateur.calibration.alpaca import alpaca, prompt
from secateur.calibration.packing import pack, sample_packed
from secateur.errors import UserError
from secateur.examples import IGNORED, Examples
from secateur.finetune.checkpoints import last_whole, seal_checkpoint
from secateur.finetune.merge import masked_merge, unmerged
from secateur.finetune.origin import weights_digest
from secateur.finetune.recipes import RECIPES, TRAININGS, FineTuning, recipe
from secateur.finetune.targets import resolve_targets
from secateur.models.adapters import FAMILIES as SUPPORTED
from secateur.models.adapters import adapter_for
from secateur.packages import need
from tests.conftest import FAMILIES, VOCABULARY

TinyModel = Callable[[str], Path]


def numbers(text: str) -> list[int]:
    """`"1 2 3"` → [0, 1, 2, 3]: every text begins with token 0."""
    return [0, *map(int, text.split())]


def test_a_masked_merge_is_the_merge_with_exact_zeros() -> None:
    generator = torch.Generator().manual_seed(0)
    weight, down, up = (torch.randn(*shape, generator=generator) for shape in ((5, 7), (2, 7), (5, 2)))
    pruned = torch.rand(5, 7, generator=generator) < 0.5
    merged = masked_merge(weight.masked_fill(pruned, 0), down, up, 1.5, pruned)
    wanted = torch.tensor(
        [
            [0.0 if pruned[i, j] else weight[i, j] + 1.5 * sum(up[i, k] * down[k, j] for k in range(2)) for j in range(7)]
            for i in range(5)
        ]
    )
    assert torch.allclose(merged, wanted, atol=1e-6)
    assert torch.equal(merged == 0, pruned) and not torch.signbit(merged[pruned]).any()
    assert (unmerged(weight.masked_fill(pruned, 0), down, up, 1.5) != 0).all()


# -- targets ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "targets", "expected"),
    [
        ("llama", ["v_proj", "q_proj"], ["self_attn.q_proj", "self_attn.v_proj"]),
        ("opt", ["q_proj", "v_proj"], ["self_attn.q_proj", "self_attn.v_proj"]),
        ("gpt2", ["q_proj", "v_proj"], ["attn.c_attn"]),
        ("gpt2", ["c_proj"], ["attn.c_proj", "mlp.c_proj"]),
        ("gpt2", ["mlp.c_proj"], ["mlp.c_proj"]),
        ("opt", ["o_proj", "gate_proj"], ["self_attn.out_proj", "fc1"]),
    ],
)
def test_targets_of_a_family(family: str, targets: list[str], expected: list[str]) -> None:
    assert list(resolve_targets(targets, adapter_for({"model_type": family}))) == expected


@pytest.mark.parametrize("family", SUPPORTED)
def test_the_recipes_name_linears_of_every_family(family: str) -> None:
    adapter = adapter_for({"model_type": family})
    for name in RECIPES:
        assert resolve_targets(recipe(name).targets, adapter)
    assert resolve_targets(recipe("llm-pruner").targets, adapter) == adapter.linears


def test_an_unknown_target_is_refused_with_those_that_exist() -> None:
    with pytest.raises(
        UserError, match=r"unknown fine-tuning target of opt 'q_prj'; did you mean .*q_proj.*known: fc1, fc2, k_proj"
    ):
        resolve_targets(["q_prj"], adapter_for({"model_type": "opt"}))


# -- recipes ----------------------------------------------------------------------------------------------------------------


def test_the_published_recipes() -> None:
    wanda, pruner, dense = (recipe(name) for name in ("wanda", "llm-pruner", "dense_ft"))
    assert (wanda.rank, wanda.scale, wanda.dropout, wanda.rate, wanda.warmup, wanda.epochs) == (8, 2, 0.05, 1e-4, 5, 1)
    assert (wanda.length, wanda.blocks, wanda.validation, wanda.batch, wanda.micro_batch) == (1024, 30_000, 128, 128, 1)
    assert (pruner.length, pruner.epochs, pruner.warmup, pruner.batch, pruner.micro_batch) == (256, 2, 100, 64, 4)
    assert (pruner.validation, pruner.keep, len(pruner.targets), dense.train) == (2000, "best", 7, "dense")
    assert set(TRAININGS.values()) == {"lora", "masked_lora", "dense"}
    listed = recipe("llm-pruner", targets=["k_proj"])
    assert listed == recipe("llm-pruner", targets=("k_proj",)) and listed.settings()["targets"] == ["k_proj"]
    assert FineTuning(**listed.settings()).settings() == listed.settings()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": "masked"}, "unknown training 'masked'; did you mean masked_lora"),
        ({"keep": "first"}, "unknown keep 'first'"),
        ({"autocast": "fp61"}, "did you mean fp16"),
        ({"rnk": 4}, "unknown setting of the fine-tuning recipe wanda 'rnk'; did you mean rank"),
        ({"targets": ()}, "must name at least one linear"),
        ({"rank": 0}, "rank 0: must be above 0"),
        ({"rate": float("nan")}, "rate nan: must be above 0"),
        ({"warmup": -1}, "warmup -1: must not be negative"),
        ({"dropout": 1.0}, "dropout 1.0: must be at least 0 and below 1"),
        ({"batch": 6, "micro_batch": 4}, "batch 6: must be a multiple of micro_batch 4"),
        ({"length": 1}, "length 1: fewer than 2 tokens"),
        ({"blocks": 0}, "blocks 0: must be at least 1"),
    ],
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("'", ".").replace("(", ".")) as raised:
        recipe("wanda", **changes)
    assert "\n" not in str(raised.value)


def test_an_unknown_recipe() -> None:
    with pytest.raises(UserError, match="unknown fine-tuning recipe 'wnda'; did you mean wanda"):
        recipe("wnda")


def test_a_missing_package_is_named() -> None:
    need("fine-tuning", "torch")
    with pytest.raises(UserError, match=r"needs peft_of_tomorrow: pip install peft_of_tomorrow$"):
        need("fine-tuning", "torch", "peft_of_tomorrow")


# -- packed blocks ----------------------------------------------------------------------------------------------------------


def test_texts_are_packed_as_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["11 12 13", "21", "31 32", "41 42 43 44", "51"]
    whole = pack(texts, numbers, 3)
    assert whole.tolist() == [[0, 11, 12], [13, 0, 21], [0, 31, 32], [0, 41, 42], [43, 44, 0]]  # 51 is left over
    assert whole.dtype == torch.int32
    monkeypatch.setattr("secateur.calibration.packing.MAP_BATCH", 2)  # of two: 0 11 12 13 0 21 | 0 31 32 0 41 42 43 44 | 0 51
    assert pack(texts, numbers, 4).tolist() == [[0, 11, 12, 13], [0, 31, 32, 0], [41, 42, 43, 44]]
    assert pack(texts, numbers, 4, blocks=2).tolist() == [[0, 11, 12, 13], [0, 31, 32, 0]]
    assert torch.equal(sample_packed(texts, numbers, 4, 2, seed=7), pack(texts, numbers, 4, 2))
    assert len(pack(texts, numbers, 4, blocks=100)) == 3


def test_no_more_is_read_than_is_needed() -> None:
    read: list[str] = []
    pack(["1 2 3"] * 5000, lambda text: read.append(text) or numbers(text), 4, blocks=1000)
    assert len(read) == 1000


def test_a_corpus_shorter_than_one_block() -> None:
    with pytest.raises(UserError, match=r"shorter than one block of 10 tokens: 2 texts, at most 7 tokens"):
        pack(["1 2 3", "4 5"], numbers, 10)


# -- Alpaca -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def letters():
    """A token a character; `<s>` in front of every text, as LLaMA does it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    known = {letter: number + 3 for number, letter in enumerate(["\n", *map(chr, range(32, 127))])}
    characters = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2} | known, unk_token="<unk>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    characters.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=characters, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


ROWS = [
    {"instruction": "Add.", "input": "1+1", "output": "2"},
    {"instruction": "Say {hello}", "input": "", "output": "hello"},
]


def text_of(letters: Any, tokens: Tensor) -> str:
    names = letters.convert_ids_to_tokens(tokens.tolist())
    return "".join(names)


def test_the_prompt() -> None:
    assert prompt(ROWS[0]).endswith("### Instruction:\nAdd.\n\n### Input:\n1+1\n\n### Response:\n")
    assert prompt(ROWS[1]).endswith("### Instruction:\nSay {hello}\n\n### Response:\n") and "Input" not in prompt(ROWS[1])
    with pytest.raises(UserError, match="an Alpaca row has no 'output', only instruction"):
        prompt({"instruction": "Add."})


def test_only_the_response_is_learnt(letters: Any) -> None:
    examples = alpaca(ROWS, letters, cutoff=400)
    assert examples.labels is not None and examples.present is not None
    for row, response in enumerate(("2", "hello")):
        own = examples.tokens[row][examples.present[row]]
        assert text_of(letters, own) == f"<s>{prompt(ROWS[row])}{response}</s>"
        learnt = examples.labels[row] != IGNORED
        assert text_of(letters, examples.labels[row][learnt]) == f"{response}</s>"
        assert torch.equal(examples.tokens[row][learnt], examples.labels[row][learnt])
        assert learnt.tolist() == sorted(learnt), "the response is at the end"
    shorter = min(range(2), key=lambda row: int(examples.present[row].sum()))  # pyright: ignore[reportOptionalSubscript]
    padding = ~examples.present[shorter]
    assert padding.any() and padding.tolist() == sorted(padding.tolist(), reverse=True), "padding is on the left"
    assert (examples.tokens[shorter][padding] == 0).all() and (examples.labels[shorter][padding] == IGNORED).all()


def test_the_cutoff_takes_the_end_of_text_with_it(letters: Any) -> None:
    full = len(letters(prompt(ROWS[1]) + "hello").input_ids)
    exactly, longer = (alpaca(ROWS[1:], letters, cutoff=cutoff) for cutoff in (full, full + 1))
    assert text_of(letters, exactly.tokens[0]).endswith("hello") and text_of(letters, longer.tokens[0]).endswith("hello</s>")
    shorter = alpaca(ROWS[1:], letters, cutoff=full - 2)
    assert shorter.labels is not None and text_of(letters, shorter.labels[0][shorter.labels[0] != IGNORED]) == "hel"
    assert len(alpaca([*ROWS, {"instruction": "x" * 500, "output": "y"}], letters, cutoff=400)) == 2
    with pytest.raises(UserError, match="none of 2 examples has a token of its response within the first 20"):
        alpaca(ROWS, letters, cutoff=20)


# -- examples ---------------------------------------------------------------------------------------------------------------


def padded() -> Examples:
    """Three rows of 5, 8 and 3 tokens, all padded to 10; the last four of each are to be predicted at most."""
    tokens = torch.randint(1, VOCABULARY, (3, 10), generator=torch.Generator().manual_seed(5), dtype=torch.int32)
    present = torch.arange(10) >= 10 - torch.tensor([5, 8, 3])[:, None]
    labels = torch.where(present & (torch.arange(10) >= 6), tokens, IGNORED)
    return Examples(tokens.masked_fill(~present, 0), labels, present)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_number(family: str, tiny_model: TinyModel) -> None:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model(family)).eval()
    examples = padded()
    together = examples.batch([0, 1, 2])
    assert together["input_ids"].shape == (3, 8), "columns that are padding in all rows are left out"
    with torch.no_grad():
        logits = model(**{name: value for name, value in together.items() if name != "labels"}).logits
        for row, length in enumerate((5, 8, 3)):
            alone = model(examples.tokens[row : row + 1, 10 - length :].long()).logits
            assert torch.allclose(logits[row, 8 - length :], alone[0], atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "opt-post-norm", "gpt2"])
def test_the_held_out_loss_is_that_of_the_evaluation(family: str, tiny_model: TinyModel, tokens: Tensor) -> None:
    import secateur
    from secateur.finetune.held_out import held_out_sums

    model = secateur.assemble(tiny_model(family), device="cpu").train()
    total, count = held_out_sums(model, Examples(tokens)).tolist()
    assert model.training, "training goes on afterwards"
    figures = secateur.perplexity(model.eval(), tokens.flatten(), tokens.shape[1])
    assert count == figures["tokens"] and total / count == pytest.approx(figures["mean_nll"], rel=1e-6)
    parts = sum(held_out_sums(model, Examples(tokens), first, 4) for first in range(4))
    assert isinstance(parts, Tensor) and parts.tolist() == pytest.approx([total, count], rel=1e-6)
    total, count = held_out_sums(model, padded()).tolist()
    with torch.no_grad():
        loss = model(**padded().batch([0, 1, 2])).loss
    assert count == 4 + 4 + 2 and total / count == pytest.approx(float(loss), rel=1e-4)


def test_examples_come_back_and_differ(tmp_path: Path, tokens: Tensor) -> None:
    for number, examples in enumerate((Examples(tokens), padded())):
        examples.write(tmp_path / f"{number}.safetensors")
        assert Examples.read(tmp_path / f"{number}.safetensors").digest() == examples.digest()
    one = padded()
    different = {
        Examples(tokens).digest(),
        Examples(tokens.flip(0)).digest(),
        Examples(tokens.view(12, 12)).digest(),
        Examples(tokens, tokens).digest(),
        one.digest(),
        Examples(one.tokens, one.labels).digest(),
    }
    assert len(different) == 6
    write_tensors(tmp_path / "other.safetensors", {"masks": torch.ones(1)})
    with pytest.raises(UserError, match=r"other.safetensors holds no tokens to train on, only masks"):
        Examples.read(tmp_path / "other.safetensors")


# -- identities and checkpoints ---------------------------------------------------------------------------------------------


def test_weights_are_known_by_their_bytes_alone(tiny_model: TinyModel, tmp_path: Path) -> None:
    import shutil

    source = tiny_model("llama")
    loose = Path(shutil.copytree(source, tmp_path / "loose"))
    (loose / "SHA256SUMS").unlink()
    (loose / "tokenizer.json").write_text("{}")
    assert weights_digest(loose) == weights_digest(source) != weights_digest(tiny_model("qwen3"))
    config = read_json(loose / "config.json")
    (loose / "config.json").write_text(str(config))
    assert weights_digest(loose) != weights_digest(source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no weights"):
        weights_digest(tmp_path / "empty")


def test_only_whole_checkpoints_are_continued(tmp_path: Path) -> None:
    assert last_whole(tmp_path) is None
    for step in (3, 20, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_text(f"state {step}")
    for step in (3, 20):
        seal_checkpoint(tmp_path, step)
    assert last_whole(tmp_path) == tmp_path / "checkpoint-20", "100 was killed before it was sealed"
    assert not (tmp_path / "checkpoint-100").exists()
    (tmp_path / "checkpoint-20" / "optimizer.pt").unlink()
    assert last_whole(tmp_path) == tmp_path / "checkpoint-3", "20 was killed while it was being removed"
