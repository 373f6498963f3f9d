"""Zero-shot tasks on a few documents: accuracy from the definition, and what is refused."""

import socket
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from secateur.artifacts import write_json
from secateur.errors import UserError
from secateur.evaluation import zeroshot
from tests.conftest import VOCABULARY
from tests.test_perplexity import dense

CHOICES = {"text": ["red fish", "a dog", "the cat sat", "fish"], "label": ["A", "B", "C", "D"]}
ARC = [
    {"question": f"which {word} is big", "choices": CHOICES, "answerKey": key}
    for word, key in (("dog", "A"), ("cat", "C"), ("fish", "D"))
]
DOCUMENTS: dict[str, dict[str, list[dict]]] = {
    "arc_challenge": {"test": ARC, "validation": ARC[:1]},
    "arc_easy": {"validation": ARC},
    "boolq": {
        "validation": [
            {"passage": "the dog sat", "question": "is the dog big", "label": 1},
            {"passage": "a red cat", "question": "is the cat red", "label": 0},
            {"passage": "fish", "question": "is it a fish", "label": 1},
        ],
        "train": [{"passage": "x", "question": "x", "label": 1}],
    },
    "hellaswag": {
        "validation": [
            {"activity_label": "fish", "ctx_a": "a dog sat.", "ctx_b": "the dog", "endings": ["sat", "is big", "is a fish", "is"]}
            | {"label": label}
            for label in "0213"
        ]
    },
    "openbookqa": {"test": [{"question_stem": "the cat is", "choices": CHOICES, "answerKey": key} for key in "BD"]},
    "piqa": {"validation": [{"goal": "the dog", "sol1": "sat", "sol2": "is a big red fish", "label": n} for n in (0, 1)]},
    "rte": {
        "validation": [{"sentence1": "the dog sat", "sentence2": "a dog sat", "label": n} for n in (0, 1)],
        "test": [{"sentence1": "unlabelled", "sentence2": "unlabelled", "label": -1}],
    },
    "winogrande": {
        "validation": [
            {"sentence": "the dog sat and _ is big", "option1": "the cat", "option2": "dog", "answer": answer}
            for answer in ("1", "2", "2")
        ]
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for task, splits in DOCUMENTS.items():
        for split, rows in splits.items():
            (folder / task).mkdir(exist_ok=True)
            parquet.write_table(pa.Table.from_pylist(rows), folder / task / f"{split}.parquet")
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: number + 1 for number, letter in enumerate(map(chr, range(32, 126)))}
    characters = Tokenizer(models.WordLevel(letters | {"</s>": 0}, unk_token="</s>"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")  # pyright: ignore[reportAttributeAccessIssue]
    assert len(letters) < VOCABULARY
    return PreTrainedTokenizerFast(tokenizer_object=characters, eos_token="</s>")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something looks for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_every_task_runs_offline_and_twice_the_same(
    data: Path, tokenizer, tiny_model: Callable[[str], Path], no_network: None, tmp_path: Path
) -> None:
    model = dense(tiny_model("llama"))
    found = zeroshot.evaluate(model, tokenizer, data, sorted(DOCUMENTS))
    assert found == zeroshot.evaluate(model, tokenizer, data, sorted(DOCUMENTS))
    assert found["limit"] is None
    splits = {task: "test" if task in ("arc_challenge", "openbookqa") else "validation" for task in DOCUMENTS}
    assert {task: score["split"] for task, score in found["tasks"].items()} == splits
    for task, score in found["tasks"].items():
        documents = DOCUMENTS[task][splits[task]]
        assert score["samples"] == len(documents)
        assert (score["acc"] * len(documents)) % 1 == pytest.approx(0, abs=1e-9)
        assert ("acc_norm" in score) == (task not in ("boolq", "rte", "winogrande"))
    assert found["tasks"]["boolq"]["version"] == 2.0
    write_json(tmp_path / "result.json", found)


def test_accuracy_is_that_of_the_likeliest_answer(data: Path, tokenizer, tiny_model: Callable[[str], Path]) -> None:
    model = dense(tiny_model("gpt2"))
    answers = CHOICES["text"]
    right = {"acc": 0, "acc_norm": 0}
    for document in ARC:
        scores = []
        for answer in answers:
            prompt = tokenizer.encode(f"Question: {document['question']}\nAnswer:")
            ids = torch.tensor(prompt + tokenizer.encode(" " + answer))[None]
            with torch.no_grad():
                rows = torch.log_softmax(model(ids).logits[0], -1)
            scores.append(sum(rows[t - 1, ids[0, t]].item() for t in range(len(prompt), ids.shape[1])))
        gold = CHOICES["label"].index(document["answerKey"])
        normed = [score / len(answer) for score, answer in zip(scores, answers, strict=True)]
        right["acc"] += scores.index(max(scores)) == gold
        right["acc_norm"] += normed.index(max(normed)) == gold
    found = zeroshot.evaluate(model, tokenizer, data, ["arc_easy"])["tasks"]["arc_easy"]
    assert {name: round(found[name] * 3) for name in right} == right
    share = found["acc"]
    assert found["acc_stderr"] == pytest.approx((share * (1 - share) / 2) ** 0.5)


def test_limit_takes_the_first_documents(data: Path, tokenizer, tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = dense(tiny_model("llama"))
    (tmp_path / "boolq").mkdir()
    parquet.write_table(pa.Table.from_pylist(DOCUMENTS["boolq"]["validation"][:2]), tmp_path / "boolq" / "validation.parquet")
    limited = zeroshot.evaluate(model, tokenizer, data, ["boolq"], limit=2)
    assert limited["limit"] == 2
    assert limited["tasks"] == zeroshot.evaluate(model, tokenizer, tmp_path, ["boolq"])["tasks"]
    assert limited["tasks"]["boolq"]["samples"] == 2
    assert zeroshot.evaluate(model, tokenizer, data, ["boolq"], limit=1)["tasks"]["boolq"]["acc_stderr"] is None
    assert zeroshot.evaluate(model, tokenizer, data, ["boolq"], limit=99)["tasks"]["boolq"]["samples"] == 3


def test_means_under_the_published_rules() -> None:
    scores = {task: {"acc": 0.1, "acc_norm": 0.5} for task in ("boolq", "hellaswag", "arc_easy", "arc_challenge", "piqa")}
    means = zeroshot.means(scores)
    assert means["wanda"] == {"mean": pytest.approx(0.1), "tasks": ["boolq", "hellaswag", "arc_easy", "arc_challenge"], "of": 7}
    assert means["d2prune"]["mean"] == pytest.approx((0.1 + 3 * 0.5) / 4)
    assert means["llm-pruner"]["tasks"] == ["boolq", "piqa", "hellaswag", "arc_easy", "arc_challenge"]
    assert means["llm-pruner"]["mean"] == pytest.approx((3 * 0.1 + 2 * 0.5) / 5)
    assert list(zeroshot.means({"piqa": {"acc": 1.0}})) == ["llm-pruner"]
    assert all(set(rule) <= set(zeroshot.TASKS) and len(rule) == 7 for rule in zeroshot.MEANS.values())


@pytest.mark.parametrize(
    ("tasks", "limit", "message"),
    [
        (["arc_esay"], None, "arc_esay.*did you mean arc_easy"),
        ([], None, "needs a task"),
        (["boolq"], 0, "limit 0"),
        (["piqa"], None, "no validation.parquet.*'piqa'"),
        (["rte"], None, "no validation.parquet"),  # its unlabelled test split is no substitute
        (["boolq"], None, "columns.*'label', 'passage', 'question'"),
    ],
)
def test_refused(
    tasks: list[str], limit: int | None, message: str, tokenizer, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    for task, split, row in (("boolq", "validation", {"question": "x", "answer": True}), ("rte", "test", {"label": -1})):
        (tmp_path / task).mkdir()
        parquet.write_table(pa.Table.from_pylist([row]), tmp_path / task / f"{split}.parquet")
    with pytest.raises(UserError, match=message):
        zeroshot.evaluate(dense(tiny_model("llama")), tokenizer, tmp_path, tasks, limit)
