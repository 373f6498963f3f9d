"""Commands that are asked for something wrong: one line on stderr, exit code 2, no traceback, and no file is touched."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.__main__ import app as flows
from pipelines.__main__ import app as pipelines
from stages.__main__ import app as stages
from tests.code_of import ROOT
from tests.finetune_project import RUN, make_project, subject, training_key
from tests.wrong import (
    LFS,
    Answer,
    Change,
    a_folder,
    a_pipe,
    answers,
    both,
    config,
    cut,
    good,
    sharded,
    text,
    untouched,
    without,
)

pytestmark = pytest.mark.timeout(60)
APPS = {"stages": stages, "pipelines": pipelines, "flows": flows}
PPL = {"subject": RUN, "model": "tiny", "source": f"pruned/{RUN}", "adapter": f"pruned/{RUN}", "mode": None} | {
    "corpus": "text",
    "split": "heldout",
    "joiner": " ",
    "documents": None,
    "protocol": "A",
    "length": 16,
    "windows": None,
}
STATS = {"model": "tiny", "corpus": "text", "split": "train", "sampler": "documents"} | {
    "samples": 2,
    "length": 8,
    "seed": 0,
    "bundle": "tokens",
}
MODEL = {"kind": "model", "path": "models/mine", "source": "file:mine"}
CORPUS = {"kind": "corpus", "path": "corpora/text", "source": "file:texts", "reader": "text"}
STUDY: dict[str, Any] = {
    "title": "t",
    "assets": {"models": {"mine": {"source": "file:mine"}}},
    "models": ["mine"],
    "runs": [{"method": "magnitude", "sparsity": 0.5}],
}
TRAINING = training_key("lora")


@dataclass(frozen=True)
class Command(Answer):
    """`words` are typed in a project that `change` has spoilt."""

    change: Change = lambda root: None
    words: tuple[str, ...] = ()


def row(name: str, words: str, change: Change, *says: str, fault: str = "") -> Command:
    return Command(name, says, fault, change, tuple(words.replace("RUN", RUN).split(" ")))


def params(table: str, key: str, **changes: Any) -> Change:
    """A row of a table in params.yaml with some entries changed."""

    def change(root: Path) -> None:
        tables = yaml.safe_load((root / "params.yaml").read_text())
        tables[table][key] |= changes
        (root / "params.yaml").write_text(yaml.safe_dump(tables))

    return change


def study(**changes: Any) -> Change:
    """A study of the model in the folder `mine`."""
    return text("my.yaml", yaml.safe_dump(STUDY | changes))


def mine(change: Change) -> Change:
    """Spoil the checkpoint in the folder `mine`."""
    return lambda root: change(root / "mine")


def nothing(root: Path) -> None:
    """All is well but the words."""


PARAMS = "params.yaml is taken for one that `use` wrote"
READING = "whoever reads YAML waits for a pipe, and follows any depth"

DOWNLOADS = [
    row("no such key", "stages download model-min", nothing, "'model-min'", "model-mine"),
    row("no folder", "stages download model-mine", lambda root: shutil.rmtree(root / "mine"), "file:mine", "does not exist"),
    row(
        "source a single file",
        "stages download model-mine",
        params("download", "model-mine", source="file:mine/model.safetensors"),
        "single file",
    ),
    row("source nonsense", "stages download model-mine", params("download", "model-mine", source="ftp:mine"), "ftp:mine"),
    row("config a list", "stages download model-mine", mine(text("config.json", "[]")), "file:mine/config.json", "model_type"),
    row("config a folder", "stages download model-mine", mine(a_folder("config.json")), "config.json"),
    row("config a pipe", "stages download model-mine", mine(a_pipe("config.json")), "config.json"),
    row("config LFS pointer", "stages download model-mine", mine(text("config.json", LFS)), "config.json is a git-lfs pointer"),
    row("weights cut", "stages download model-mine", mine(cut("model.safetensors")), "model.safetensors is damaged"),
    row("weights LFS pointer", "stages download model-mine", mine(text("model.safetensors", LFS)), "git-lfs pointer"),
    row("weights a folder", "stages download model-mine", mine(a_folder("model.safetensors")), "model.safetensors"),
    row("no weights", "stages download model-mine", mine(without("model.safetensors")), "no weights"),
    row("index without a shard", "stages download model-mine", mine(both(sharded(), without("a.safetensors"))), "a.safetensors"),
    row("index leads out", "stages download model-mine", mine(sharded(x="../../params.yaml")), "../../params.yaml"),
    row("index of many lines", "stages download model-mine", mine(sharded(**{"a\nb": "c\nd.safetensors"})), "a\\nb"),
    row("quantised", "stages download model-mine", mine(config(quantization_config={"quant_method": "awq"})), "awq"),
    row("adapter", "stages download model-mine", mine(text("adapter_config.json", "{}")), "adapter"),
    row("tokenizer cut", "stages download model-mine", mine(cut("tokenizer.json")), "tokenizer.json is not valid JSON"),
    row(
        "generation config cut", "stages download model-mine", mine(text("generation_config.json", "{")), "generation_config.json"
    ),
    row("is there already", "stages download model-mine", lambda root: good_copy(root), "models/mine exists already"),
    row("corpus empty", "stages download corpus-text", lambda root: (root / "texts").mkdir(), "file:texts"),
    row("corpus missing", "stages download corpus-text", nothing, "file:texts", "does not exist"),
]

STAGES = [
    row("no params.yaml", "stages prune RUN", without("params.yaml"), "params.yaml does not exist"),
    row("params.yaml not YAML", "stages prune RUN", text("params.yaml", "a: [\n"), "params.yaml", "not valid YAML"),
    row("params.yaml a list", "stages prune RUN", text("params.yaml", "[1]"), "params.yaml"),
    row("params.yaml empty", "stages prune RUN", text("params.yaml", ""), "params.yaml"),
    row("params.yaml bytes", "stages prune RUN", text("params.yaml", b"\xff\xfe\x00"), "params.yaml"),
    row("params.yaml a folder", "stages prune RUN", a_folder("params.yaml"), "params.yaml"),
    row("params.yaml a pipe", "stages prune RUN", a_pipe("params.yaml"), "params.yaml"),
    row("table a list", "stages prune RUN", text("params.yaml", "runs: [1]"), "runs"),
    row("row a number", "stages prune RUN", text("params.yaml", f"runs: {{{RUN}: 5}}"), "runs"),
    row("no compute", "stages prune RUN", lambda root: drop(root, "compute"), "compute"),
    row("compute: threads", "stages prune RUN", lambda root: change_compute(root, threads=0), "threads", "0"),
    row("compute: device", "stages prune RUN", lambda root: change_compute(root, device="gpu"), "device", "'gpu'"),
    row("prune: no such key", "stages prune tiny--magnitud--50", nothing, "'tiny--magnitud--50'", RUN),
    row("prune: exists", "stages prune RUN", nothing, f"pruned/{RUN} exists already"),
    row("prune: method", "stages prune RUN", params("runs", RUN, method="magnitud"), "'magnitud'", "magnitude"),
    row("prune: sparsity", "stages prune RUN", params("runs", RUN, sparsity="half"), "sparsity", "'half'"),
    row("prune: key of many", "stages prune RUN", params("runs", RUN, sparsty=1), "sparsty", "sparsity"),
    row(
        "prune: model missing",
        "stages prune RUN",
        both(unpruned := lambda root: shutil.rmtree(root / "artifacts/pruned"), params("runs", RUN, model="tny")),
        "tny",
    ),
    row("stats: corpus missing", "stages calibrate-stats tokens", nothing, "corpora/text"),
    row(
        "stats: sampler",
        "stages calibrate-stats tokens",
        both(a_corpus := lambda root: make_corpus(root), params("stats", "tokens", sampler="doc")),
        "'doc'",
        "documents",
    ),
    row("stats: split", "stages calibrate-stats tokens", both(a_corpus, params("stats", "tokens", split="trian")), "trian"),
    row("stats: too short", "stages calibrate-stats tokens", both(a_corpus, params("stats", "tokens", length=5000)), "5000"),
    row("ppl: corpus missing", "stages eval-ppl ppl", nothing, "corpora/text"),
    row("ppl: split", "stages eval-ppl ppl", a_corpus, "'heldout'", "train"),
    row("ppl: length", "stages eval-ppl ppl", both(a_corpus, params("ppl", "ppl", split="train", length=1)), "length", "1"),
    row("tune: no such key", "stages lora-finetune none", nothing, "'none'"),
    row("tune: data missing", f"stages lora-finetune {TRAINING}", params("finetunes", TRAINING, data="stats/none"), "stats/none"),
    row("tune: option", f"stages lora-finetune {TRAINING}", params("finetunes", TRAINING, options={"rnk": 1}), "'rnk'", "rank"),
    row("export: no such subject", "stages export tiny --to out", nothing, "'tiny'", RUN),
    row(
        "export: damaged",
        "stages export RUN --to out",
        cut(f"artifacts/pruned/{RUN}/masks/block_000.safetensors"),
        "block_000.safetensors",
        "checksum",
    ),
    row("export: out exists", "stages export RUN --to artifacts", nothing, "artifacts"),
    row("export: out nowhere", "stages export RUN --to no/such", nothing, "no is not a folder"),
    row("export: fine-tuning not made", f"stages export {subject('unmerged')} --to out", nothing, "adapters"),
    row("verify: no such subject", "stages verify tiny", nothing, "'tiny'", RUN),
    row("report: nothing there", "stages report", lambda root: drop(root, "report"), "report"),
]

STUDIES = [
    row("no such study", "pipelines use smok", nothing, "'smok'", "smoke"),
    row("no such file", "pipelines use none.yaml", nothing, "none.yaml does not exist"),
    row("a folder", "pipelines use texts.yaml", lambda root: (root / "texts.yaml").mkdir(), "texts.yaml"),
    row("a pipe", "pipelines use my.yaml", a_pipe("my.yaml"), "my.yaml"),
    row("not YAML", "pipelines use my.yaml", text("my.yaml", "a: [\n"), "my.yaml"),
    row("bytes", "pipelines use my.yaml", text("my.yaml", b"\xff\xfe\x00"), "my.yaml"),
    row("a list", "pipelines use my.yaml", text("my.yaml", "[1]"), "my.yaml", "mapping"),
    row("empty", "pipelines use my.yaml", text("my.yaml", ""), "my.yaml"),
    row("nested too deep", "pipelines use my.yaml", text("my.yaml", "[" * 5000), "my.yaml"),
    row("key unknown", "pipelines use my.yaml", study(rns=[]), "'rns'", "runs"),
    row("a key twice", "pipelines use my.yaml", text("my.yaml", "title: a\ntitle: b\n"), "my.yaml", "title"),
    row(
        "sparsity a text", "pipelines use my.yaml", study(runs=[{"method": "magnitude", "sparsity": "0.5"}]), "sparsity", "'0.5'"
    ),
    row("method", "pipelines use my.yaml", study(runs=[{"method": "magnitud", "sparsity": 0.5}]), "magnitud", "magnitude"),
    row("model unknown", "pipelines use my.yaml", study(models=["mien"]), "mien", "mine"),
    row("model missing", "pipelines use my.yaml", both(study(), lambda root: shutil.rmtree(root / "mine")), "file:mine"),
    row("model's config a list", "pipelines use my.yaml", both(study(), mine(text("config.json", "[]"))), "config.json"),
    row("model's config cut", "pipelines use my.yaml", both(study(), mine(cut("config.json"))), "config.json"),
    row(
        "model's hidden_size a text",
        "pipelines use my.yaml",
        both(study(), mine(config(hidden_size="big"))),
        "hidden_size",
        "big",
    ),
    row(
        "model's heads 0",
        "pipelines use my.yaml",
        both(study(), mine(config(num_attention_heads=0, head_dim=None))),
        "config.json",
    ),
    row("model's family", "pipelines use my.yaml", both(study(), mine(config(model_type="gemma2"))), "gemma2"),
    row("show: params.yaml a list", "pipelines show", text("params.yaml", "[1]"), "params.yaml"),
    row("show: params.yaml not YAML", "pipelines show", text("params.yaml", "a: [\n"), "params.yaml"),
    row("show: studies numbers", "pipelines show", text("params.yaml", "studies: [1]"), "params.yaml", "studies"),
    row("flows: no such study", "flows compare smok", nothing, "nothing is tracked yet"),
    row("flows: check here", "flows check --fast", nothing, "dvc.lock"),
    row("flows: fast and more", "flows check --fast --keep", nothing, "--fast"),
    row("flows: rule", "flows register study --rule best", nothing, "nothing is tracked yet"),
    row("flows: no such pool", "flows worker --pool gpus", nothing, "no dvc.yaml here"),
]


def good_copy(root: Path) -> None:
    shutil.copytree(root / "mine", root / "artifacts" / "models" / "mine")


def drop(root: Path, table: str) -> None:
    tables = yaml.safe_load((root / "params.yaml").read_text())
    del tables[table]
    (root / "params.yaml").write_text(yaml.safe_dump(tables))


def change_compute(root: Path, **changes: Any) -> None:
    tables = yaml.safe_load((root / "params.yaml").read_text())
    tables["compute"] |= changes
    (root / "params.yaml").write_text(yaml.safe_dump(tables))


def make_corpus(root: Path) -> None:
    import pandas

    from secateur.outputs import whole_folder

    with whole_folder(root / "artifacts" / "corpora" / "text") as folder:
        pandas.DataFrame({"text": [" ".join(map(str, range(40)))] * 4}).to_parquet(folder / "train.parquet")


@pytest.fixture(scope="module")
def base(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a pruned model, rows for what is not made yet, and a checkpoint of somebody's own in the folder `mine`."""
    root = make_project(tmp_path_factory.mktemp("base") / "project", tiny_model("llama"))
    good(tiny_model("llama"), root / "mine")
    tables = yaml.safe_load((root / "params.yaml").read_text())
    tables |= {"download": {"model-mine": MODEL, "corpus-text": CORPUS}, "stats": {"tokens": STATS}, "ppl": {"ppl": PPL}}
    (root / "params.yaml").write_text(yaml.safe_dump(tables))
    shutil.copytree(ROOT / "pipelines", root / "pipelines", ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    for folder in ("unfinished/downloads", "corpora"):  # which the first download makes, and leaves
        (root / "artifacts" / folder).mkdir(parents=True)
    return root


@pytest.fixture
def project(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = shutil.copytree(base, tmp_path / "project")
    monkeypatch.chdir(root)
    return root


@answers([*DOWNLOADS, *STAGES, *STUDIES])
def test_a_command(row: Command, project: Path) -> None:
    row.change(project)
    program, *words = row.words
    with untouched(project):
        done = CliRunner().invoke(APPS[program], words)
    assert done.exit_code == 2 and isinstance(done.exception, SystemExit), (done.exit_code, done.exception)
    line = done.stderr.removesuffix("\n")
    assert line.startswith("error: ") and line.isprintable() and done.stdout == "", done.output
    assert all(part in line for part in row.says), line


@pytest.mark.parametrize(
    "words", ["stages prune nothing", "stages download model-mine", "pipelines use my.yaml", "flows compare nothing"]
)
def test_as_a_process(words: str, project: Path) -> None:
    """The same from outside: what a terminal shows."""
    both(mine(cut("config.json")), study())(project)
    with untouched(project):
        done = subprocess.run(
            [sys.executable, "-P", "-B", "-m", *words.split()], capture_output=True, text=True, env=None, check=False
        )
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
