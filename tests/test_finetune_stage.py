"""The stage `lora-finetune` on a tiny run: what it writes, what it says of it, and the subjects that evaluations make of it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import secateur
from pipelines.schema import Subject
from secateur.artifacts import identity, read_json, sha256, write_tensors
from secateur.errors import UserError
from secateur.finetune.origin import Origin
from secateur.finetune.recipes import TRAININGS
from secateur.models.linears import linear_at, weight_of
from stages import _subject, lora_finetune
from tests.finetune_project import RUN, STEPS, make_project, training_key
from tests.test_finetune import zeros_are_the_mask

KEY = training_key("lora")


@pytest.fixture
def project(tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pruned LLaMA and its fine-tunings, not run yet, as the current directory."""
    monkeypatch.chdir(make_project(tmp_path, tiny_model("llama")))
    return tmp_path


def finetune(key: str = KEY, **changes: Any) -> dict[str, Any]:
    """The result of the stage, with `changes` of its row."""
    tables = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    tables["finetunes"][key] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(tables), encoding="utf-8")
    lora_finetune.run(key)
    return read_json(Path(f"results/finetune/{key}.json"))


def load(mode: str | None, source: str = f"pruned/{RUN}") -> tuple[Any, dict[str, Any]]:
    """What an evaluation reads, and its provenance."""
    adapter = f"adapters/{training_key(TRAININGS[mode])}" if mode else source
    row = {"subject": "s", "model": "tiny", "source": source, "adapter": adapter, "mode": mode}
    model, _, provenance = _subject.load_subject(Subject.model_validate(row))
    return model, provenance


def test_the_result_says_what_was_trained_on_what(project: Path) -> None:
    found = finetune()
    artifacts = project / "artifacts"
    assert found["provenance"] == {
        "model": identity(artifacts / "models" / "tiny"),
        "masks": identity(artifacts / "pruned" / RUN),
        "data": sha256(artifacts / "stats" / "blocks" / "tokens.safetensors"),
        "validation": sha256(artifacts / "stats" / "unseen" / "tokens.safetensors"),
        "adapter": identity(artifacts / "adapters" / KEY),
    }
    assert (found["finetune"], found["steps"], found["kept_step"]) == (KEY, STEPS, STEPS)
    assert found["perplexity_after"] == found["curve"][-1]["held_out_perplexity"] < found["perplexity_before"]
    lines = (project / f"results/loss/{KEY}.csv").read_text().splitlines()
    assert lines[0] == "step,loss,learning_rate,held_out_perplexity" and len(lines) == 1 + len(found["curve"])
    assert not (artifacts / "unfinished" / "adapters" / KEY).exists()


def test_without_held_out_text_nothing_is_said_of_it(project: Path) -> None:
    found = finetune(validation=f"pruned/{RUN}")
    assert (found["perplexity_before"], found["perplexity_after"], found["provenance"]["validation"]) == (None, None, None)
    assert len(found["curve"]) == STEPS and all(point["held_out_perplexity"] is None for point in found["curve"])


@pytest.mark.parametrize("mode", ["masked_merge", "masked_training", "dense"])
def test_what_is_evaluated_was_trained_and_has_the_zeros_of_the_run(project: Path, mode: str) -> None:
    key = training_key(TRAININGS[mode])
    finetune(key)
    (tuned, provenance), (plain, known) = load(mode), load(None)
    assert provenance == known | {"adapter": identity(project / "artifacts/adapters" / key)}
    origin = Origin(project / "artifacts/models/tiny", project / "artifacts/pruned" / RUN)
    zeros_are_the_mask(tuned, origin)
    for name in origin.masks(origin.adapter.linears):
        assert not torch.equal(weight_of(linear_at(tuned, name)), weight_of(linear_at(plain, name))), name


def test_an_unmerged_adapter_fills_the_zeros_that_stay_in_its_run(project: Path) -> None:
    finetune()
    tuned, _ = load("unmerged")
    for name in ("0.self_attn.q_proj", "2.mlp.down_proj"):
        layer = tuned.get_submodule(f"model.layers.{name}")
        assert (layer.base_layer.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
        assert (layer.get_delta_weight("default") != 0).all()


def test_the_same_row_gives_the_same_bytes(project: Path) -> None:
    files = [project / f"artifacts/adapters/{KEY}/adapter_model.safetensors", project / f"results/loss/{KEY}.csv"]
    finetune()
    first = [file.read_bytes() for file in files]
    shutil.rmtree(project / "artifacts/adapters")
    finetune()
    assert [file.read_bytes() for file in files] == first


def test_an_adapter_of_another_run_is_refused(project: Path) -> None:
    finetune()
    artifacts = project / "artifacts"
    secateur.prune(artifacts / "models/tiny", secateur.Recipe("magnitude", 0.6), artifacts / "pruned/other", device="cpu")
    with pytest.raises(UserError, match=rf"adapters/{KEY} was fine-tuned for another run than .*pruned/other"):
        load("masked_merge", source="pruned/other")


def test_blocks_longer_than_the_context_are_refused_before_training(project: Path) -> None:
    write_tensors(project / "artifacts/stats/long/tokens.safetensors", {"tokens": torch.zeros(2, 65, dtype=torch.int32)})
    with pytest.raises(UserError, match=r"training examples of 65 tokens: the model's context is 64"):
        finetune(data="stats/long")
    assert not (project / "artifacts/unfinished/adapters").exists()
