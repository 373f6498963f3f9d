"""Token ids that a model cannot have: refused in one line with value and place, by every entry, before any work."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import secateur
from secateur import Recipe, UserError, engine
from secateur.examples import Examples
from secateur.finetune.recipes import FineTuning
from secateur.statistics.collect import collect
from secateur.statistics.gradients import collect_gradients
from secateur.tokens import check_tokens
from tests.conftest import VOCABULARY

TinyModel = Callable[[str], Path]


def ids(*shape: int, **at: int) -> Tensor:
    """Good ids of a shape; `at` puts others at places such as `_1_3`."""
    found = torch.arange(torch.Size(shape).numel()).reshape(shape) % VOCABULARY
    for place, value in at.items():
        found[tuple(map(int, place.strip("_").split("_")))] = value
    return found


class BatchEncoding(dict):
    """As a tokenizer answers."""


BAD = [
    (ids(2, 8, _1_3=VOCABULARY), r"the id 96 in sequence 1 at position 3 .*from 0 to 95: the tokenizer knows more tokens"),
    (ids(2, 8, _0_7=50_000).int(), "the id 50000 in sequence 0 at position 7"),
    (ids(2, 8, _1_0=-100), "the id -100 in sequence 1 at position 0 is negative: .*labels may hold -100, tokens may not"),
    (ids(2, 8, _0_2=-1).to(torch.int16), "the id -1 in sequence 0 at position 2 is negative"),
    (ids(8), r"tokens of shape \(8,\): must be .*\[sequences, length\].*tokens\[None\]"),
    (ids(1, 2, 8), r"tokens of shape \(1, 2, 8\): must be"),
    (torch.tensor(5), r"tokens of shape \(\): must be"),
    (ids(0, 8), r"tokens of shape \(0, 8\) are empty"),
    (ids(2, 0), r"tokens of shape \(2, 0\)( are empty| tokens predict nothing)?|windows of 0 tokens"),
    (ids(2, 8).float(), "tokens are float32: must be .*integers"),
    (ids(2, 8).bfloat16(), "tokens are bfloat16: must be"),
    (ids(2, 8).bool(), "tokens are bool: must be"),
    ([[1, 2, 3], [4, 5, 6]], "tokens are a list: .*torch.tensor makes one"),
    ((1, 2, 3), "tokens are a tuple: .*torch.tensor makes one"),
    (ids(2, 8).numpy(), "tokens are a numpy array: .*torch.from_numpy makes one"),
    ("some text", "tokens are a str: .*tokenise the text first"),
    (BatchEncoding(input_ids=ids(2, 8)), "tokens are a BatchEncoding: .*pass its input_ids"),
    ({"input_ids": [[1, 2]]}, "tokens are a dict: .*pass its input_ids"),
    ({"ids": 1}, "tokens are a dict: .*pass the ids themselves"),
    (3, "tokens are an int: "),
]
NAMES = [f"{type(given).__name__}-{number}" for number, (given, _) in enumerate(BAD)]


def entries(model: Path, out: Path) -> dict[str, Callable[[Any], object]]:
    """Everything that takes windows of tokens."""
    common: dict[str, Any] = {"work": out / "work", "settings": {}, "device": "cpu", "progress": False}
    return {
        "prune": lambda tokens: engine.prune(model, Recipe("wanda", 0.5), out / "run", tokens=tokens, **common),
        "statistics": lambda tokens: collect(model, tokens, "moments", out / "statistics", **common),
        "tokens": lambda tokens: collect(model, tokens, "tokens", out / "tokens", **common),
        "gradients": lambda tokens: collect_gradients(model, tokens, out / "gradients", **common),
    }


@pytest.mark.parametrize("entry", ["prune", "statistics", "tokens", "gradients"])
@pytest.mark.parametrize(("given", "message"), BAD, ids=NAMES)
def test_windows_are_refused_before_any_work(entry: str, given: Any, message: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as raised:
        entries(tiny_model("llama"), tmp_path)[entry](given)
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("family", ["llama", "opt-post-norm", "gpt2"])
def test_the_front_door_refuses_ids_beyond_the_embedding(family: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    wrong = ids(2, 8, _1_5=VOCABULARY + 3)
    for call in (
        lambda: secateur.prune(tiny_model(family), Recipe("sparsegpt", 0.5), tmp_path / "run", tokens=wrong, device="cpu"),
        lambda: secateur.calibrate(tiny_model(family), wrong, tmp_path / "statistics", device="cpu"),
        lambda: secateur.gradients(tiny_model(family), wrong, tmp_path / "gradients", device="cpu"),
    ):
        with pytest.raises(UserError, match=r"the id 99 in sequence 1 at position 5 .*from 0 to 95"):
            call()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64])
def test_any_integers_will_do(dtype: torch.dtype) -> None:
    check_tokens(ids(2, 8, _0_0=VOCABULARY - 1).to(dtype), VOCABULARY)
    check_tokens(ids(8).to(dtype), VOCABULARY, dimensions=1)


PERPLEXITY = [
    (ids(64, _40=VOCABULARY), "ids: the id 96 at position 40 .*from 0 to 95"),
    (ids(64, _3=-100), "ids: the id -100 at position 3 is negative"),
    (ids(1, 64), r"ids of shape \(1, 64\): must be .*\[n\].*ids\[0\]"),
    (ids(64).float(), "ids are float32"),
    ("a text", "ids are a str: .*tokenise the text first"),
    (list(range(64)), "ids are a list"),
    (ids(64).numpy(), "ids are a numpy array"),
    ({"input_ids": ids(1, 64)}, "ids are a dict: .*pass its input_ids"),
    (ids(0), "ids of shape \\(0,\\) are empty"),
]


@pytest.mark.parametrize(("given", "message"), PERPLEXITY)
def test_perplexity_refuses_what_are_no_ids(given: Any, message: str, tiny_model: TinyModel) -> None:
    model = secateur.assemble(tiny_model("llama"), device="cpu")
    with pytest.raises(UserError, match=message):
        secateur.perplexity(model, given, length=16)


def test_perplexity_reads_no_further_than_its_windows(tiny_model: TinyModel) -> None:
    model, text = secateur.assemble(tiny_model("llama"), device="cpu"), ids(64)
    expected = secateur.perplexity(model, text, length=16, windows=2)
    text[40] = VOCABULARY
    assert secateur.perplexity(model, text, length=16, windows=2) == expected
    with pytest.raises(UserError, match="the id 96 at position 40"):
        secateur.perplexity(model, text, length=16, windows=3)


PRESENT = torch.ones(2, 8, dtype=torch.bool)
EXAMPLES = [
    (ids(2, 8, _0_1=-100), "training tokens: the id -100 in sequence 0 at position 1 is negative"),
    (ids(2, 8, _1_7=VOCABULARY), "training tokens: the id 96 in sequence 1 at position 7"),
    ([[1, 2]], "tokens are a list"),
    (ids(8), r"tokens of shape \(8,\)"),
    (Examples(ids(2, 8), ids(2, 8, _0_4=VOCABULARY), PRESENT), "training labels: the id 96 in sequence 0 at position 4"),
    (Examples(ids(2, 8), ids(2, 8, _0_4=-1), PRESENT), "training labels: the id -1 .*or -100 where nothing is to be predicted"),
    (Examples(ids(2, 8), ids(2, 7), PRESENT), r"training labels of shape \(2, 7\): must be that of the tokens, \(2, 8\)"),
    (Examples(ids(2, 8), ids(2, 8), PRESENT.int()), "training present: must be bool"),
    (Examples(ids(2, 8), ids(2, 8).float(), PRESENT), "training labels are float32"),
]


@pytest.mark.parametrize(("given", "message"), EXAMPLES)
def test_fine_tuning_refuses_what_are_no_examples(given: Any, message: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    from secateur.finetune.train import finetune

    pytest.importorskip("peft")
    settings = FineTuning(train="lora", batch=2, micro_batch=2)
    with pytest.raises(UserError, match=message):
        finetune(tiny_model("llama"), None, given, tmp_path / "out", work=tmp_path / "work", settings=settings, device="cpu")
    assert not list(tmp_path.iterdir())


def test_labels_may_be_ignored() -> None:
    Examples(ids(2, 8), ids(2, 8, _0_4=-100), PRESENT).check(VOCABULARY, "training")


class Words:
    """A tokenizer of single letters."""

    def __call__(self, text: str, verbose: bool = False) -> Any:
        return SimpleNamespace(input_ids=[ord(letter) % VOCABULARY for letter in text])


TEXTS = ["a text that is long enough", "another one of that length"]


@pytest.mark.parametrize(
    ("texts", "changes", "message"),
    [
        ("one long string " * 20, {}, "texts are one str of length 320: must be a list of strings"),
        (b"bytes", {}, "texts are one bytes of length 5"),
        ([], {}, "texts are empty"),
        ((), {"sampler": "stream"}, "texts are empty"),
        ({"text": TEXTS}, {}, "texts are of the type dict: must be a list of strings"),
        (iter(TEXTS), {}, "texts are of the type list_iterator"),
        (None, {}, "texts are of the type NoneType"),
        ([*TEXTS, None], {}, "document 2 is of the type NoneType: texts must be a list of strings"),
        ([{"text": "a"}], {}, "document 0 is of the type dict"),
        ([*TEXTS, 7], {"sampler": "packed"}, "document 2 is of the type int"),
        (TEXTS, {"samples": 0}, "samples 0: must be a whole number, at least 1"),
        (TEXTS, {"samples": -3, "sampler": "stream"}, "samples -3: must be"),
        (TEXTS, {"samples": 2.5}, "samples 2.5: must be"),
        (TEXTS, {"length": 0}, "length 0: must be"),
        (TEXTS, {"length": -1, "sampler": "distinct"}, "length -1: must be"),
        (TEXTS, {"length": True}, "length True: must be"),
    ],
)
def test_sampling_refuses_what_is_no_list_of_texts(texts: Any, changes: dict[str, Any], message: str) -> None:
    tokenizer: Any = Words()
    with pytest.raises(UserError, match=message):
        secateur.sample(texts, tokenizer, **{"samples": 2, "length": 8, **changes})
    assert secateur.sample(TEXTS, tokenizer, samples=2, length=8).shape == (2, 8)
