"""Finished work by name: exported as a plain checkpoint, and verified, whether it was fine-tuned or not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

import secateur
from pipelines.schema import Subject
from secateur import Recipe, UserError
from secateur.artifacts import write_json, write_sums
from secateur.export import export
from secateur.finetune.load import finetuned
from secateur.finetune.origin import Origin
from secateur.finetune.recipes import TRAININGS
from secateur.finetune.train import finetune
from secateur.masks import PrunedLinear, PrunedStore
from secateur.sparsity import measure
from stages.__main__ import app
from stages._subject import load_subject
from tests.finetune_project import RUN, make_project, subject, training_key
from tests.test_finetune import SETTINGS, texts, zeros_are_the_mask

TinyModel = Callable[[str], Path]


@pytest.fixture(scope="module")
def finished(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a run of GPT-2, which stores [in, out] and ties its embeddings, and its three fine-tunings."""
    root = make_project(tmp_path_factory.mktemp("project"), tiny_model("gpt2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for training in ("lora", "masked_lora", "dense"):
            assert said("lora-finetune", training_key(training))[0] == 0
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    root = shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(root)
    return root


def said(*arguments: str) -> tuple[int, str]:
    """Exit code and everything that a stage says."""
    result = CliRunner().invoke(app, [*arguments])
    return result.exit_code, result.output


def logits(whole: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return whole(tokens.long()).logits


@pytest.mark.parametrize("mode", ["masked_merge", "masked_training", "dense"])
def test_an_exported_fine_tuning_is_the_subject_that_was_evaluated(mode: str, project: Path, tokens: Tensor) -> None:
    assert said("export", subject(mode), "--to", "plain")[0] == 0
    plain = AutoModelForCausalLM.from_pretrained("plain").eval()
    adapter = f"adapters/{training_key(TRAININGS[mode])}"
    row = Subject(subject=subject(mode), model="tiny", source=f"pruned/{RUN}", adapter=adapter, mode=mode)  # pyright: ignore
    found, wanted = logits(plain, tokens), logits(load_subject(row)[0], tokens)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(
        found, logits(secateur.assemble("artifacts/models/tiny", f"artifacts/pruned/{RUN}"), tokens), atol=1e-2
    )
    zeros_are_the_mask(plain, Origin(Path("artifacts/models/tiny"), Path(f"artifacts/pruned/{RUN}")))


def test_a_run_is_exported_as_before(project: Path, tokens: Tensor) -> None:
    assert said("export", RUN, "--to", "plain")[0] == 0
    pruned = secateur.assemble("artifacts/models/tiny", "artifacts/pruned/tiny--magnitude--50", device="cpu")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained("plain").eval(), tokens), logits(pruned, tokens))


def test_what_would_fill_zeros_is_refused_before_anything_is_written(project: Path) -> None:
    before = sorted(project.iterdir())
    code, text = said("export", subject("unmerged"), "--to", "plain")
    assert code == 2 and text.count("\n") == 1
    assert "would fill the run's zeros" in text and "use masked_merge, or train under the mask" in text
    assert sorted(project.iterdir()) == before


def test_an_unknown_subject_lists_what_there_is(project: Path) -> None:
    for command in (["export", "tiny--magnitude--50--short--masked", "--to", "plain"], ["verify", "tiny--magnitude--5"]):
        code, text = said(*command)
        assert code == 2 and text.count("\n") == 1 and "did you mean tiny--magnitude--50" in text
        assert all(subject(mode) in text for mode in TRAININGS)


def test_the_unmerged_adapters_of_a_dense_model_are_merged(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    model, tuned, to = tiny_model("gpt2"), tmp_path / "tuned", tmp_path / "plain"
    finetune(model, None, texts(24), tuned, work=tmp_path / "work", settings=SETTINGS, device="cpu", progress=False)
    export(model, None, to, tuned, "unmerged")
    loaded: Any = AutoModelForCausalLM.from_pretrained(to, output_loading_info=True)
    plain, info = loaded
    assert not any(info.values()) and not any("lora" in parameter for parameter, _ in plain.named_parameters())
    beside = finetuned(model, None, tuned, "unmerged", device="cpu")
    assert torch.allclose(logits(plain.eval(), tokens), logits(beside, tokens), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(plain, tokens), logits(secateur.assemble(model, device="cpu"), tokens), atol=1e-2)


@pytest.mark.parametrize(
    ("train", "mode", "message"),
    [
        ("lora", None, "a fine-tuning needs a mode"),
        (None, "dense", "a fine-tuning needs a mode"),
        ("lora", "masked_training", "was trained as lora, which allows unmerged or masked_merge"),
        ("lora", "merged", "unknown merge mode 'merged'"),
        ("masked_lora", "unmerged", "was trained as masked_lora, which allows masked_training"),
    ],
)
def test_mistakes_of_an_export_leave_nothing(train: str | None, mode: str | None, message: str, project: Path) -> None:
    before = sorted(project.iterdir())
    tuned = train and Path("artifacts/adapters") / training_key(train)
    with pytest.raises(UserError, match=message):
        export(Path("artifacts/models/tiny"), Path("artifacts/pruned") / RUN, Path("plain"), tuned or None, mode)
    assert sorted(project.iterdir()) == before


@pytest.mark.parametrize("mode", [None, *TRAININGS])
def test_sound_work_is_verified(mode: str | None, project: Path) -> None:
    code, text = said("verify", subject(mode) if mode else RUN)
    assert code == 0 and "checksums, pattern and sparsity are right" in text
    assert ("so is the fine-tuning" in text) == (mode is not None)
    assert ("0 of the run's zeros are filled" in text) == (mode not in (None, "unmerged"))


def test_damaged_and_foreign_fine_tunings_are_found_out(project: Path) -> None:
    adapters, pruned = project / "artifacts" / "adapters", project / "artifacts" / "pruned"
    lora = adapters / training_key("lora")
    with (lora / "loss.csv").open("a") as file:
        file.write("13,0,0,0\n")
    code, text = said("verify", subject("masked_merge"))
    assert code == 1 and "loss.csv: does not match its checksum; run `dvc repro lora-finetune@" in text
    assert said("export", subject("masked_merge"), "--to", "plain")[0] == 2 and not Path("plain").exists()

    dense, other = adapters / training_key("dense"), project / "other"
    secateur.prune(project / "artifacts" / "models" / "tiny", Recipe("magnitude", 0.3), other, device="cpu")
    store = PrunedStore(dense)
    filled = {path: torch.zeros_like(linear.mask) for path, linear in store.read(1).items()}
    store.write(1, {path: PrunedLinear(mask, torch.ones(mask.numel())) for path, mask in filled.items()})
    write_sums(dense)
    code, text = said("verify", subject("dense"))
    assert code == 1 and "weights are not zero that the run pruned" in text

    write_json(project / "results" / "sparsity" / "tiny--magnitude--50.json", measure(other, project / "artifacts/models/tiny"))
    shutil.rmtree(pruned / RUN)
    other.rename(pruned / RUN)
    code, text = said("verify", subject("masked_training"))
    assert code == 1 and "was fine-tuned for another run than" in text
