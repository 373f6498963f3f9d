"""The download stage and models that are not what they seem: one line that names the source, and nothing left behind."""

import codecs
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from safetensors.torch import load_file, save_file

from secateur.checkpoint import Checkpoint
from secateur.errors import UserError
from stages.download import download
from tests.conftest import save_tiny_model
from tests.download_faults import INDEX, POINTER, REFUSED, SINGLE, Change, single
from tests.download_rows import left_behind, model, write_gguf


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECATEUR_MIRROR", raising=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as it might lie on the Hub: shards, tokenizers of several kinds, and what does not belong to it."""
    folder = save_tiny_model("llama", tmp_path_factory.mktemp("whole") / "model")
    tensors, table = load_file(folder / SINGLE), {}
    for number, shard in enumerate(("weights-a.safetensors", "pytorch_model.b.safetensors")):
        part = {name: tensor for index, (name, tensor) in enumerate(sorted(tensors.items())) if index % 2 == number}
        save_file(part, folder / shard, metadata={"format": "pt"})
        table |= dict.fromkeys(part, shard)
    (folder / SINGLE).unlink()
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": table}))
    for name in ("tokenizer.json", "tokenizer_config.json", "tekken.json"):
        (folder / name).write_text("{}")
    for name in ("spm.model", "sentencepiece.bpe.model", "qwen.tiktoken", "LICENSE", "chat_template.jinja"):
        (folder / name).write_text(name)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ x }}")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def state(folder: Path) -> dict[str, Any]:
    """Everything in a folder: contents, and where links lead."""
    found = {}
    for path in sorted(folder.rglob("*")):
        what = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path.relative_to(folder).as_posix()] = what
    return found


# ---- what works


def mark_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(codecs.BOM_UTF8 + (folder / "config.json").read_bytes())


def unfetched_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_text(POINTER)
    (folder / "old.onnx").symlink_to("nowhere")


def consolidated_beside(folder: Path) -> None:
    (folder / "params.json").write_text("{}")
    (folder / "consolidated.safetensors").write_bytes(b"of another program")


def blobs(folder: Path) -> None:
    """A snapshot of the Hub's cache: every file is a link."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        target = blobs / file.relative_to(folder).as_posix().replace("/", "-")
        file.rename(target)
        file.symlink_to(target)


@pytest.mark.parametrize("change", [lambda _: None, single, mark_config, unfetched_pickle, consolidated_beside, blobs])
def test_shards_of_any_name_come_with_everything_of_the_tokenizer_and_no_more(
    folder: Path, tmp_path: Path, change: Change
) -> None:
    (folder / "modeling_own.py").write_text("raise SystemExit")
    change(folder)
    before = state(folder)
    download(model(f"file:{folder}"), tmp_path / "out")
    made = tmp_path / "out" / "models" / "m"
    weights = {SINGLE} if (folder / SINGLE).exists() else {"weights-a.safetensors", "pytorch_model.b.safetensors", INDEX}
    others = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "tekken.json", "spm.model"}
    others |= {"sentencepiece.bpe.model", "qwen.tiktoken", "LICENSE", "chat_template.jinja", "SHA256SUMS"}
    others |= {"additional_chat_templates/rag.jinja"} | ({"params.json"} if change is consolidated_beside else set())
    assert {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} == weights | others
    assert not any(path.is_symlink() for path in made.rglob("*"))
    assert not (made / "config.json").read_bytes().startswith(codecs.BOM_UTF8)
    assert len(Checkpoint(made).tensors) > 20
    assert state(folder) == before


# ---- what is refused


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line_that_names_the_source(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = REFUSED[name]
    change(folder)
    before = state(folder)
    monkeypatch.chdir(tmp_path)
    copied: list[Any] = []
    monkeypatch.setattr(shutil, "copyfile", lambda *files: copied.append(files))
    for source in (f"file:{folder}", f"file:{folder.name}"):  # a relative path, like "." below, occurs in many words
        with pytest.raises(UserError, match=message.replace("SOURCE", source)) as caught:
            download(model(source), Path("artifacts"))
        assert str(caught.value).isprintable()
        assert left_behind(Path("artifacts")) == [] == copied
    assert state(folder) == before
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message.replace("SOURCE", "file:[.]")):
        download(model("file:."), tmp_path / "artifacts")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.gguf", r"SOURCE is a single file and not a checkpoint folder; reader: gguf"),
        ("model.safetensors", r"SOURCE is a single file.*name the folder that holds it"),
        ("config.json", r"SOURCE is a single file"),
        ("gone", r"SOURCE is a link to nowhere, which does not exist"),
        ("absent", r"SOURCE: .* does not exist"),
        ("pipe", r"SOURCE is neither a file nor a folder"),
    ],
)
def test_a_source_that_is_no_folder(name: str, message: str, folder: Path, tmp_path: Path) -> None:
    single(folder)
    write_gguf(folder / "model.gguf")
    (folder / "gone").symlink_to("nowhere")
    os.mkfifo(folder / "pipe")
    with pytest.raises(UserError, match=message.replace("SOURCE", f"file:{folder / name}")):
        download(model(f"file:{folder / name}"), tmp_path / "artifacts")
    assert left_behind(tmp_path / "artifacts") == []


# ---- GGUF


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:40], "cannot be read as a GGUF model"),
        (lambda data: data[:-20], "cannot be read as a GGUF model"),
        (lambda data: b"", "is empty"),
        (lambda data: b"<html>" + data, "magic"),
        (lambda data: data.replace(b"llama", b"qqqqq"), "architecture qqqqq is not supported"),
        (lambda data: POINTER.encode(), "git-lfs pointer"),
    ],
)
def test_damaged_gguf(change: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    file = tmp_path / "my [1] model.gguf"
    write_gguf(file)
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(UserError, match=rf"file:.*my \[1\] model.gguf.*{message}") as caught:
        download(model(f"file:{file}", reader="gguf"), tmp_path / "artifacts")
    assert str(caught.value).isprintable() and left_behind(tmp_path / "artifacts") == []


# ---- the Hub


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Hub's client replaced by one that serves `folder`; the files that were asked of it, in order."""
    asked: list[str] = []

    class Info:
        sha = "c0ffee"

        @property
        def siblings(self) -> list[Any]:
            files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
            return [huggingface_hub.hf_api.RepoSibling(rfilename=name) for name in files]

    def snapshot_download(name: str, local_dir: Path, allow_patterns: list[str], **_: Any) -> None:
        asked.extend(allow_patterns)
        for file in allow_patterns:
            (local_dir / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / file, local_dir / file)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: Info())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


def test_of_the_hub_only_the_model_is_fetched_configuration_first(folder: Path, hub: list[str], tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "modeling_own.py", "tf_model.h5", "consolidated.safetensors", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("of no use")
    download(model("hf:org/name"), tmp_path / "out")
    assert hub[:2] == ["config.json", INDEX]
    made = tmp_path / "out" / "models" / "m"
    assert set(hub) == {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()} - {"SHA256SUMS"}


@pytest.mark.parametrize(
    "name", ["no model_type", "missing shard", "shard outside", "pickled", "adapter", "single beside shards", "gptq declared"]
)
def test_of_the_hub_no_weights_are_fetched_for_nothing(name: str, folder: Path, hub: list[str], tmp_path: Path) -> None:
    change, message = REFUSED[name]
    change(folder)
    with pytest.raises(UserError, match=message.replace("SOURCE", "hf:org/name")):
        download(model("hf:org/name"), tmp_path / "out")
    assert not any(file.endswith((".safetensors", ".bin")) for file in hub)


@pytest.mark.parametrize("name", ["cut shard", "fp8", "cut tokenizer"])
def test_what_turns_out_unusable_is_not_kept(name: str, folder: Path, hub: list[str], tmp_path: Path) -> None:
    change, message = REFUSED[name]
    change(folder)
    with pytest.raises(UserError, match=message.replace("SOURCE", "hf:org/name@v1")):
        download(model("hf:org/name@v1"), tmp_path / "out")
    assert hub and left_behind(tmp_path / "out") == []
