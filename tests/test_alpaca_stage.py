"""Instruction examples on their way through the stages: a corpus with columns, padded examples, a fine-tuning."""

import json
from collections.abc import Callable, Iterator
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from torch import Tensor
from typer.testing import CliRunner

import secateur
from pipelines.expand import expand
from pipelines.schema import parse
from pipelines.select import render
from pipelines.study import Catalogue, Study, read_catalogue
from pipelines.validate import validate, validate_catalogue
from secateur.artifacts import read_json, read_tensors, sha256, write_tensors
from secateur.calibration.alpaca import alpaca, prompt
from secateur.calibration.text import sample, sample_examples
from secateur.errors import UserError
from secateur.examples import Examples
from secateur.finetune.held_out import held_out_sums
from secateur.models.tokenizer import load_tokenizer
from secateur.statistics.collect import collect
from stages import calibrate_stats, lora_finetune, prune
from stages import download as downloading
from stages.__main__ import app
from stages.download import download
from tests.conftest import VOCABULARY
from tests.download_rows import corpus, texts

TinyModel = Callable[[str], Path]
COLUMNS = ["instruction", "input", "output"]
ROWS = [
    {"instruction": "count on", "input": "" if n % 3 else f"from {n}", "output": " ".join(map(str, range(n, n + 1 + n % 4)))}
    for n in range(12)
]
HOLDOUT = {"count": 3, "seed": 42}


def split_by_datasets(rows: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(train, held out) of whole rows, as LLM-Pruner's own line draws them, each in the order of `rows`."""
    parts = Dataset.from_list(rows).train_test_split(test_size=3, shuffle=True, seed=42)
    drawn = [[row for row in rows if row in list(parts[name])] for name in ("train", "test")]
    assert [len(part) for part in drawn] == [9, 3] and drawn[1] != rows[-3:]
    return drawn[0], drawn[1]


def json_lines(path: Path, rows: list[dict[str, Any]]) -> str:
    """A file with the rows, as the source of an asset."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"file:{path}"


def save_with_words(model: Path, folder: Path) -> None:
    """The tiny model with a tokenizer of the words that the examples are made of; `<s>` in front of every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    found = dict.fromkeys(" ".join(f"{prompt(row)} {row['output']}" for row in ROWS).split())
    known = {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: number + 3 for number, word in enumerate(found)}
    assert len(known) <= VOCABULARY
    words = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    words.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    secateur.assemble(model, device="cpu").save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)


STUDY: dict[str, Any] = {
    "title": "lessons",
    "compute": {"threads": 2, "device": "cpu"},
    "models": ["tiny"],
    "calibrations": {
        "lessons": {"corpus": "lessons", "sampler": "alpaca", "samples": 1000, "length": 60},
        "unseen": {"corpus": "lessons", "split": "heldout", "sampler": "alpaca", "samples": 2, "length": 60},
    },
    "finetunes": {
        "tuned": {"recipe": "llm-pruner", "data": "lessons", "validation": "unseen"}
        | {"targets": ["q_proj", "v_proj"], "batch": 4, "micro_batch": 2, "epochs": 2, "warmup": 1, "interval": 2, "rate": 0.02}
    },
    "runs": [{"method": "magnitude", "sparsity": 0.5, "finetune": "tuned"}],
}


@pytest.fixture(scope="module")
def project(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current directory: a study with two assets of its own, expanded; both downloaded, nothing else run."""
    folder = tmp_path_factory.mktemp("project")
    save_with_words(tiny_model("llama"), folder / "checkpoint")
    source = json_lines(folder / "lessons.jsonl", [row | {"topic": "counting"} for row in ROWS])
    lessons = {"source": source, "reader": "jsonl", "columns": COLUMNS, "holdout": HOLDOUT}
    assets = {"models": {"tiny": {"source": f"file:{folder / 'checkpoint'}"}}, "corpora": {"lessons": lessons}}
    study = parse(Study, STUDY | {"assets": assets}, "s")
    assert validate_catalogue(study.assets) == validate("s", study, study.assets, {}) == []
    tables = expand({"s": study}, Catalogue())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("params.yaml").write_text(render(tables), encoding="utf-8")
        for key in tables.download:
            downloading.run(key)
        yield folder


def test_the_published_recipe_runs_through_all_stages(project: Path) -> None:
    train, unseen = split_by_datasets(ROWS)
    assert [json.loads(text) for text in texts(project / "artifacts", "train", "lessons")] == train
    assert [json.loads(text) for text in texts(project / "artifacts", "heldout", "lessons")] == unseen

    tokenizer = load_tokenizer(project / "artifacts/models/tiny")
    wanted = {"lessons": alpaca(train, tokenizer, cutoff=60), "unseen": alpaca(unseen[:2], tokenizer, cutoff=60)}
    for name, examples in wanted.items():
        calibrate_stats.run(f"tiny--{name}--tokens")
        stored = Examples.read(Path(f"artifacts/stats/tiny--{name}--tokens/tokens.safetensors"))
        assert stored.digest() == examples.digest()
        assert stored.present is not None and not stored.present.all(), "some are padded, or nothing is tested"

    run, key = "tiny--magnitude--50", "tiny--magnitude--50--tuned--lora"
    prune.run(run)
    lora_finetune.run(key)
    result = read_json(Path(f"results/finetune/{key}.json"))
    assert result["provenance"]["data"] == sha256(Path("artifacts/stats/tiny--lessons--tokens/tokens.safetensors"))
    whole = secateur.assemble(Path("artifacts/models/tiny"), Path("artifacts/pruned") / run, device="cpu")
    total, count = held_out_sums(whole, wanted["unseen"]).tolist()
    assert result["perplexity_before"] == pytest.approx(exp(total / count), rel=1e-4), "of the responses alone"
    assert result["perplexity_after"] < result["perplexity_before"]
    settings = read_json(Path(f"artifacts/adapters/{key}/settings.json"))
    assert settings["examples"] == wanted["lessons"].digest() and settings["recipe"]["blocks"] == len(train)


# -- the corpus -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["jsonl", "parquet", "hub"])
def test_columns_become_json_objects(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"a": "é\nü", "c": 'x"', "b": ""}, {"a": "1", "c": "2", "b": "3"}]
    source = f"file:{tmp_path}/rows.parquet" if reader == "parquet" else json_lines(tmp_path / "rows.jsonl", rows)
    if reader == "parquet":
        Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    if reader == "hub":
        folder = tmp_path / "mirror/datasets/org/set"
        folder.mkdir(parents=True)
        (tmp_path / "rows.jsonl").rename(folder / "train.jsonl")
        monkeypatch.setenv("SECATEUR_MIRROR", str(tmp_path / "mirror"))
        source = "hf:org/set"
    download(corpus(source=source, reader=reader, columns=["b", "a"]), tmp_path / "out")
    assert texts(tmp_path / "out") == ['{"b": "", "a": "é\\nü"}', '{"b": "3", "a": "1"}']


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"instruction": "a", "out": "b"}], r"has no column 'input', 'output' in train; it has instruction, out$"),
        ([ROWS[0], ROWS[1] | {"input": None}], r"row 1 of the split train has no text in 'input', but None$"),
        ([ROWS[0] | {"output": 5}], r"row 0 of the split train has no text in 'output', but 5$"),
    ],
)
def test_columns_that_are_not_there(rows: list[dict[str, Any]], problem: str, tmp_path: Path) -> None:
    source = json_lines(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=problem):
        download(corpus(source=source, reader="jsonl", columns=COLUMNS), tmp_path / "out")
    assert not (tmp_path / "out/corpora/c").exists()


def test_a_drawn_holdout_is_the_split_of_datasets(tmp_path: Path) -> None:
    rows = [{"text": str(number)} for number in range(500)]
    source = json_lines(tmp_path / "rows.jsonl", rows)
    for count, seed in ((1, 0), (37, 42), (499, 7)):
        folder, wanted = tmp_path / str(count), Dataset.from_list(rows).train_test_split(test_size=count, seed=seed)
        download(corpus(source=source, reader="jsonl", holdout={"count": count, "seed": seed}), folder)
        for split, part in (("train", "train"), ("heldout", "test")):
            assert texts(folder, split) == sorted(wanted[part]["text"], key=int), "order is kept"
    with pytest.raises(UserError, match=r"holdout {'count': 500, 'seed': 0} does not fit a source of 500 rows"):
        download(corpus(source=source, reader="jsonl", holdout={"count": 500, "seed": 0}), tmp_path / "none")


# -- the sampler ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("documents", "problem"),
    [
        (["plain text"], r"^document 0: 'plain text': must be a JSON object of texts, as a corpus with columns has them$"),
        (
            ['{"instruction": "a", "output": "b"}', "[" + "1, " * 30 + "1]"],
            r"^document 1: '\[1, 1.*\.\.\.': must be a JSON object",
        ),
        (['{"instruction": "a", "output": 3}'], r"^document 0: .*: must be a JSON object of texts"),
        (['{"instruction": "a"}'], r"^an Alpaca row has no 'output', only instruction$"),
    ],
)
def test_documents_that_are_no_examples(documents: list[str], problem: str, project: Path) -> None:
    tokenizer = load_tokenizer(project / "artifacts/models/tiny")
    with pytest.raises(UserError, match=problem):
        sample_examples(documents, tokenizer, samples=9, length=60, seed=0, sampler="alpaca")


def test_windows_are_never_padded_examples(project: Path) -> None:
    documents, tokenizer = [json.dumps(row) for row in ROWS], load_tokenizer(project / "artifacts/models/tiny")
    with pytest.raises(UserError, match=r"^padded examples are for fine-tuning alone: "):
        sample(documents, tokenizer, samples=9, length=60, sampler="alpaca")
    drawn: dict[str, Any] = {"samples": 4, "length": 5, "seed": 1, "sampler": "stream"}
    windows, same = sample(documents, tokenizer, **drawn), sample_examples(documents, tokenizer, **drawn)
    assert windows.shape == (4, 5) and same.labels is same.present is None and torch.equal(same.tokens, windows)


@pytest.mark.parametrize("bundle", ["moments", "gradients"])
def test_padded_examples_have_no_statistics(bundle: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"model": "tiny", "corpus": "lessons", "split": "train", "sampler": "alpaca", "samples": 4, "length": 60, "seed": 0}
    tables = {"compute": {"threads": 2, "device": "cpu"}, "stats": {"key": row | {"bundle": bundle}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tables), encoding="utf-8")
    (tmp_path / "artifacts").mkdir()
    for kind in ("models", "corpora"):
        (tmp_path / "artifacts" / kind).symlink_to(project / "artifacts" / kind)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["calibrate-stats", "key"])
    assert done.exit_code == 2 and done.stderr.startswith("error: padded examples are for fine-tuning alone")
    assert done.stderr.count("\n") == 1 and not Path("artifacts/stats").exists()


def test_the_file_of_plain_windows_holds_them_alone(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    collect(tiny_model("llama"), tokens, "tokens", tmp_path / "out", work=tmp_path / "work", settings={}, device="cpu")
    write_tensors(tmp_path / "alone.safetensors", {"tokens": tokens})
    assert (tmp_path / "out/tokens.safetensors").read_bytes() == (tmp_path / "alone.safetensors").read_bytes()
    assert [*read_tensors(tmp_path / "out/tokens.safetensors")[0]] == ["tokens"]


# -- before anything runs ---------------------------------------------------------------------------------------------------

CATALOGUE = read_catalogue()
LESSONS = {"corpus": "alpaca", "sampler": "alpaca", "samples": 50_000, "length": 256}
WIKI = {"corpus": "wikipedia", "samples": 4, "length": 32}


def problems(changes: dict[str, Any], **lessons: Any) -> list[str]:
    """What is said about a good study with `changes`, whose calibration `lessons` is changed too."""
    calibrations = {"lessons": LESSONS | lessons, "unseen": LESSONS | {"split": "heldout"}, "wiki": WIKI}
    good = {
        "title": "t",
        "models": ["smollm2"],
        "calibrations": calibrations,
        "finetunes": {"tuned": {"recipe": "llm-pruner", "data": "lessons", "validation": "unseen"}},
        "runs": [{"method": "wanda", "calibration": "wiki", "sparsity": 0.5, "finetune": "tuned"}],
    }
    return validate("s", parse(Study, good | changes, "s"), CATALOGUE, {})


def runs(**axes: Any) -> dict[str, Any]:
    return {"runs": [{"method": "wanda", "sparsity": 0.5, "calibration": "wiki", **axes}]}


ONLY_FOR_FINETUNES = "sampler alpaca makes padded examples, which only a finetune can read"


@pytest.mark.parametrize(
    ("changes", "lessons", "line"),
    [
        (runs(calibration="lessons"), {}, f"s: runs[0].calibration: lessons: {ONLY_FOR_FINETUNES}"),
        (
            runs(method="magnitude", allocation="owl", calibration="lessons"),
            {},
            f"s: runs[0].calibration: lessons: {ONLY_FOR_FINETUNES}",
        ),
        (runs(method="pruner_zero", gradients="lessons"), {}, f"s: runs[0].gradients: lessons: {ONLY_FOR_FINETUNES}"),
        ({}, {"bundle": "moments"}, "s: calibrations.lessons.bundle: 'moments': must be 'tokens'; sampler alpaca makes padded"),
        (
            {},
            {"corpus": "wikipedia"},
            "s: calibrations.lessons.corpus: wikipedia: has plain text; sampler alpaca needs the columns instruction, output",
        ),
        (
            {},
            {"sampler": "packed"},
            "s: calibrations.lessons.sampler: 'packed': must be alpaca; the documents of alpaca are no plain text",
        ),
        (
            {"perplexity": [{"corpus": "alpaca", "split": "heldout", "length": 32}]},
            {},
            "s: perplexity[0].corpus: alpaca: its documents are no plain text; use a corpus without columns",
        ),
    ],
)
def test_refused_with_one_clear_line(changes: dict[str, Any], lessons: dict[str, Any], line: str) -> None:
    (found,) = problems(changes, **lessons)
    assert found.startswith(line)


@pytest.mark.parametrize(
    "changes", [{}, runs(method="magnitude", calibration="lessons"), runs(method="wanda", gradients="lessons")]
)
def test_not_refused(changes: dict[str, Any]) -> None:
    assert problems(changes) == []


@pytest.mark.parametrize(
    ("asset", "line"),
    [
        ({"columns": ["a"], "column": "text"}, "corpora.c.columns: ['a']: column 'text' is given too; leave one out"),
        ({"columns": ["a"], "reader": "text"}, "corpora.c.columns: reader text has no columns; use hub, jsonl, parquet"),
        ({"columns": ["a"], "reader": "mediawiki"}, "corpora.c.columns: reader mediawiki has no columns; use hub, jsonl"),
        ({"columns": ["a"], "reader": "paragraphs"}, "corpora.c.columns: reader paragraphs has no columns; use hub, jsonl"),
        ({"columns": []}, "a: corpora.c.columns: []: must be a list of at least one column, each named once"),
        ({"columns": ["a", "a"]}, "a: corpora.c.columns: ['a', 'a']: must be a list of at least one column, each named once"),
        ({"columns": "a"}, "a: corpora.c.columns: 'a': must be a valid list"),
        ({"holdout": {"count": 0, "seed": 1}}, "a: corpora.c.holdout: {'count': 0, 'seed': 1}: must have a count of at least 1"),
        ({"holdout": {"count": 5}}, "a: corpora.c.holdout: {'count': 5}: must have a count of at least 1 and a seed"),
        ({"holdout": {"count": True, "seed": 1}}, "must have a count of at least 1 and a seed of at least 0, and nothing else"),
        ({"holdout": {"count": 2, "seed": -1}}, "must have a count of at least 1 and a seed of at least 0, and nothing else"),
        ({"holdout": "2000"}, "must be a number k (every k-th document), [first, end] or {count: ..., seed: ...}"),
    ],
)
def test_assets_that_contradict_themselves(asset: dict[str, Any], line: str) -> None:
    try:
        found = validate_catalogue(parse(Catalogue, {"corpora": {"c": {"source": "file:x"} | asset}}, "a"))
    except UserError as error:
        found = str(error).splitlines()
    assert len(found) == 1 and line in found[0], found


def test_the_catalogue_has_what_the_recipe_names() -> None:
    asset = CATALOGUE.corpora["alpaca"]
    assert (asset.source, asset.columns, asset.holdout) == ("hf:yahma/alpaca-cleaned", COLUMNS, {"count": 2000, "seed": 42})
    assert asset.split_names() == ["train", "heldout"]
