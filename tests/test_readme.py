"""The README does what it says: its examples run, its commands exist, its study is valid."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

import secateur
import secateur.methods
from secateur import METHODS
from tests.conftest import LLAMA, VOCABULARY

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS = ["<s>", *(f"w{number}" for number in range(VOCABULARY - 1))]


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def save_model_with_tokenizer(folder: Path) -> None:
    """A tiny LLaMA that reads the words w0 w1 ..., with a context of 512."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **LLAMA | {"max_position_embeddings": 512})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>").save_pretrained(folder)


def test_the_library_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_model_with_tokenizer(Path("artifacts/models/smollm2"))
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(1, VOCABULARY, (40, 50), generator=generator)
    Path("corpus.txt").write_text("\n".join(" ".join(WORDS[number] for number in line) for line in numbers.tolist()))
    (example,) = [block for block in blocks("python") if "secateur.load" in block]
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    exec(compile(example, "README.md", "exec"), {})
    assert 1 < float(capsys.readouterr().out.split()[-1]) < 1e6


def test_the_method_example_runs(tiny_model, tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = [block for block in blocks("python") if "ScoreMethod" in block]
    (line,) = [block for block in blocks("python") if "METHODS.add" in block]
    (tmp_path / "spread.py").write_text(example, encoding="utf-8")
    monkeypatch.setattr(secateur.methods, "__path__", [*secateur.methods.__path__, str(tmp_path)])
    try:
        exec(line, {"METHODS": METHODS})
        secateur.prune(tiny_model("opt-pre-norm"), secateur.Recipe("spread", 0.5), tmp_path / "run", tokens=tokens, device="cpu")
    finally:
        METHODS._entries.pop("spread", None)


def test_the_study_example_is_valid(tmp_path: Path) -> None:
    from pipelines import select

    _, example = blocks("yaml")
    save_model_with_tokenizer(tmp_path / "checkpoint")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("w1 w2", encoding="utf-8")
    (tmp_path / "my-study.yaml").write_text(example.replace("/path/to", str(tmp_path)), encoding="utf-8")
    tables = select.tables_of([str(tmp_path / "my-study.yaml")])
    assert len(tables.runs) == 5 and tables.download["model-mine"].source == f"file:{tmp_path}/checkpoint"


def test_the_fine_tuning_is_part_of_a_valid_study(tmp_path: Path) -> None:
    from pipelines import select

    part, _ = blocks("yaml")
    calibration = "  wiki: {corpus: wikipedia, samples: 16, length: 512}\n"
    whole = "title: t\nmodels: [smollm2]\n" + part.replace("calibrations:\n", f"calibrations:\n{calibration}")
    (tmp_path / "part.yaml").write_text(whole, encoding="utf-8")
    tables = select.tables_of([str(tmp_path / "part.yaml")])
    assert [row.training for row in tables.finetunes.values()] == ["lora", "masked_lora"]
    (study,) = tables.report.studies.values()
    assert [found.mode for found in study.tuned.values()] == ["unmerged", "masked_merge", "masked_training"]


def test_every_command_in_the_readme_exists() -> None:
    shell = "\n".join(blocks("sh"))
    stages = (ROOT / "stages" / "__main__.py").read_text(encoding="utf-8")
    for name in re.findall(r"python -m stages ([a-z-]+)", shell):
        assert f"def {name.replace('-', '_')}(" in stages
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {"run", "test"} <= set(re.findall(r"^make (\w+)", shell, flags=re.MULTILINE)) <= set(targets)
    assert shutil.which("make")
