"""Perplexity against the plain definition on every family, the window rules, and what is refused."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from secateur.errors import UserError
from secateur.evaluation import likelihood
from secateur.evaluation.perplexity import aggregate, perplexity, read_text, tokenize, window_nll, windows
from tests.conftest import FAMILIES, VOCABULARY

IDS = torch.randint(0, VOCABULARY, (70,), generator=torch.Generator().manual_seed(2))


def dense(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_definition(family: str, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = dense(tiny_model(family))
    monkeypatch.setattr(likelihood, "ROWS", 5)  # 15 predictions a window: several chunks, the last one not full
    losses = []
    for start in range(0, 64, 16):
        with torch.no_grad():
            logits = model(IDS[None, start : start + 16]).logits[0].double()
        probabilities = torch.log_softmax(logits, -1)
        losses.append(-sum(probabilities[t, IDS[start + t + 1]].item() for t in range(15)) / 15)
    found = perplexity(model, IDS, 16)
    assert found["mean_nll"] == pytest.approx(sum(losses) / 4, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(sum(losses) / 4), rel=1e-5)
    assert found["nll_standard_error"] == pytest.approx(torch.tensor(losses).std().item() / 2, rel=1e-4)
    assert (found["windows"], found["windows_limit"], found["windows_available"]) == (4, None, 4)
    assert found["tokens"] == 60


def test_the_tail_never_counts_and_the_limit_keeps_the_first_windows(tiny_model: Callable[[str], Path]) -> None:
    model = dense(tiny_model("llama"))
    other_tail = torch.cat([IDS[:64], IDS[:6]])
    assert perplexity(model, other_tail, 16) == perplexity(model, IDS, 16)
    assert perplexity(model, IDS, 16, windows=2)["perplexity"] == perplexity(model, IDS[:32], 16)["perplexity"]
    assert perplexity(model, IDS, 16, windows=2)["windows_available"] == 4
    assert perplexity(model, IDS, 16, windows=9)["windows"] == 4


def test_protocols_agree_for_one_length(tiny_model: Callable[[str], Path]) -> None:
    model = dense(tiny_model("gpt2"))
    a, b = perplexity(model, IDS, 16), perplexity(model, IDS, 16, protocol="B")
    assert a["perplexity"] == pytest.approx(b["perplexity"], rel=1e-12)
    assert (a.pop("protocol"), b.pop("protocol")) == ("A", "B")


def test_pieces_by_hand() -> None:
    assert windows(torch.arange(11), 4, 1).tolist() == [[0, 1, 2, 3]]
    assert windows(torch.arange(11), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    # Row t predicts token t + 1: probabilities 1/4 and 3/4; the last row predicts nothing.
    logits = torch.log(torch.tensor([[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]))
    assert window_nll(logits, torch.tensor([0, 1, 1])) == pytest.approx((math.log(4) + math.log(4 / 3)) / 2)
    assert aggregate([1.0, 3.0], 8) == {"perplexity": pytest.approx(math.exp(2)), "mean_nll": 2.0, "nll_standard_error": 1.0}
    assert aggregate([1.0], 8)["nll_standard_error"] is None


def test_half_precision_logits_are_summed_in_fp32() -> None:
    logits = torch.randn(9, 50, generator=torch.Generator().manual_seed(0)).half()
    tokens = torch.arange(9)
    assert window_nll(logits, tokens) == window_nll(logits.float(), tokens)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: perplexity(model, IDS, 71), "70 tokens"),
        (lambda model: perplexity(model, IDS[:20], 32), "20 tokens.*32"),
        (lambda model: perplexity(model, torch.cat([IDS, IDS]), 65), "65 tokens.*context of 64"),
        (lambda model: perplexity(model, IDS, 1), "at least 2"),
        (lambda model: perplexity(model, IDS, 16, windows=0), "windows is 0"),
        (lambda model: perplexity(model, IDS, 16, protocol="C"), "protocol 'C'.*known: A, B"),
        (lambda model: aggregate([1.0, float("nan")], 8), "window 1 is nan"),
    ],
)
def test_refused(call: Callable, message: str, tiny_model: Callable[[str], Path]) -> None:
    model = dense(tiny_model("llama"))
    model.config.max_position_embeddings = 100 if "70" in message else 64
    with pytest.raises(UserError, match=message):
        call(model)


def test_a_model_that_changes_its_logits_afterwards_is_refused() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    config = Gemma2Config(vocab_size=VOCABULARY, num_key_value_heads=2, final_logit_softcapping=0.1, **sizes)
    model = Gemma2ForCausalLM(config).eval()
    with pytest.raises(UserError, match="changes its logits"):
        perplexity(model, IDS, 16)
    model.config.final_logit_softcapping = None
    assert perplexity(model, IDS, 16)["windows"] == 4


def test_text_is_joined_as_it_is_and_tokenised_once(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    parquet.write_table(pa.table({"text": ["a b", "", " c"]}), tmp_path / "test.parquet")
    text = read_text(tmp_path, "test", "\n\n")
    assert text == "a b\n\n\n\n c"
    assert read_text(tmp_path, "test", " ", documents=2) == "a b "
    with pytest.raises(UserError, match=r"tset.*did you mean test"):
        read_text(tmp_path, "tset", " ")

    words = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2, "c": 3}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", model_max_length=2)
    assert tokenize(tokenizer, text).tolist() == [0, 1, 2, 3]  # one BOS at the very start, nothing cut
