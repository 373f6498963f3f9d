"""The stage `lora-finetune` on a tiny run: what it writes, what it says of it, and the subjects that evaluations make of it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import secateur
from pipelines.schema import FineTuneRow, Subject
from secateur.artifacts import identity, read_json, seal_folder, sha256, write_tensors
from secateur.errors import UserError
from secateur.masks import PrunedStore
from secateur.models.adapters import adapter_for
from stages import _subject, lora_finetune
from tests.conftest import VOCABULARY

TinyModel = Callable[[str], Path]
EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHORT = {"rate": 0.03, "batch": 2, "warmup": 0, "interval": 2, "rank": 2, "alpha": 4.0, "targets": EVERY}


@pytest.fixture
def project(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a sealed model, a run of it, and two sets of tokens."""
    monkeypatch.chdir(tmp_path)
    artifacts = tmp_path / "artifacts"
    model = artifacts / "models" / "tiny"
    secateur.assemble(tiny_model("llama"), device="cpu").save_pretrained(tmp_path / "partial")
    (tmp_path / "partial" / "tokenizer.json").write_text(_tokenizer())
    seal_folder(tmp_path / "partial", model)
    unseen = torch.randint(0, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    for name, drawn in {"blocks": tokens, "unseen": unseen}.items():
        secateur.calibrate(model, drawn, artifacts / "stats" / name, bundle="tokens", device="cpu")
    secateur.prune(model, secateur.Recipe("magnitude", sparsity=0.5), artifacts / "pruned" / "run", device="cpu")
    return tmp_path


def _tokenizer() -> str:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return Tokenizer(WordLevel({str(number): number for number in range(VOCABULARY)}, "0")).to_str()


def finetune(key: str = "tuned", training: str = "lora", **changes: Any) -> dict[str, Any]:
    """The result of the stage for one row."""
    row = {"model": "tiny", "source": "pruned/run", "data": "stats/blocks", "validation": "stats/unseen"}
    row |= {"recipe": "dense_ft" if training == "dense" else "wanda", "training": training, "options": SHORT} | changes
    row = FineTuneRow.model_validate(row).model_dump()
    tables = {"compute": {"threads": torch.get_num_threads(), "device": "cpu"}, "finetunes": {key: row}}
    Path("params.yaml").write_text(yaml.safe_dump(tables), encoding="utf-8")
    lora_finetune.run(key)
    return read_json(Path(f"results/finetune/{key}.json"))


def load(mode: str | None, key: str = "tuned", source: str = "pruned/run") -> tuple[nn.Module, dict[str, Any]]:
    adapter = f"adapters/{key}" if mode else source
    row = Subject.model_validate({"subject": "s", "model": "tiny", "source": source, "adapter": adapter, "mode": mode})
    model, _, provenance = _subject.load_subject(row)
    return model, provenance


def weights(model: nn.Module, root: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Every pruned weight of the model beside the run's mask of it."""
    store = PrunedStore(root / "artifacts" / "pruned" / "run")
    adapter = adapter_for(read_json(root / "artifacts" / "models" / "tiny" / "config.json"))
    for block in range(3):
        for name, linear in store.read(block).items():
            yield model.get_submodule(f"{adapter.blocks_path}.{block}.{name}").weight, linear.mask  # pyright: ignore


def test_the_result_says_what_was_trained_on_what(project: Path) -> None:
    found = finetune()
    artifacts = project / "artifacts"
    assert found["provenance"] == {
        "model": identity(artifacts / "models" / "tiny"),
        "masks": identity(artifacts / "pruned" / "run"),
        "data": sha256(artifacts / "stats" / "blocks" / "tokens.safetensors"),
        "validation": sha256(artifacts / "stats" / "unseen" / "tokens.safetensors"),
        "adapter": identity(artifacts / "adapters" / "tuned"),
    }
    assert (found["finetune"], found["steps"], found["kept_step"]) == ("tuned", 3, 3)
    assert found["perplexity_after"] == found["curve"][-1]["held_out_perplexity"] != found["perplexity_before"]
    lines = (project / "results/loss/tuned.csv").read_text().splitlines()
    assert lines[0] == "step,loss,learning_rate,held_out_perplexity" and len(lines) == 1 + len(found["curve"])
    assert not (artifacts / "unfinished" / "adapters" / "tuned").exists()


def test_without_held_out_text_nothing_is_said_of_it(project: Path) -> None:
    found = finetune(validation="pruned/run")
    assert (found["perplexity_before"], found["perplexity_after"], found["provenance"]["validation"]) == (None, None, None)
    assert all(point["held_out_perplexity"] is None for point in found["curve"])


@pytest.mark.parametrize(("mode", "training"), [("masked_merge", "lora"), ("masked_training", "masked_lora"), ("dense", "dense")])
def test_what_is_evaluated_has_the_zeros_of_the_run(project: Path, mode: str, training: str) -> None:
    finetune(training=training)
    tuned, provenance = load(mode)
    plain, known = load(None)
    assert provenance == known | {"adapter": identity(project / "artifacts/adapters/tuned")}
    for (weight, mask), (before, _) in zip(weights(tuned, project), weights(plain, project), strict=True):
        assert torch.equal(weight == 0, mask)
        assert not torch.equal(weight, before), "every target was trained"


def test_an_unmerged_adapter_fills_the_zeros_that_stay_in_its_run(project: Path) -> None:
    finetune()
    tuned, _ = load("unmerged")
    for name in ("0.self_attn.q_proj", "2.mlp.down_proj"):
        layer: Any = tuned.get_submodule(f"model.layers.{name}")
        assert (layer.base_layer.weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)
        assert (layer.get_delta_weight("default") != 0).all()


def test_the_same_row_gives_the_same_bytes(project: Path) -> None:
    files = ("artifacts/adapters/{}/adapter_model.safetensors", "results/loss/{}.csv")
    finetune("a")
    finetune("b")
    for file in files:
        assert (project / file.format("a")).read_bytes() == (project / file.format("b")).read_bytes()


def test_an_adapter_of_another_run_is_refused(project: Path) -> None:
    finetune()
    artifacts = project / "artifacts"
    secateur.prune(
        artifacts / "models/tiny", secateur.Recipe("magnitude", sparsity=0.6), artifacts / "pruned/other", device="cpu"
    )
    with pytest.raises(UserError, match=r"adapters/tuned was fine-tuned for another run than .*pruned/other"):
        load("masked_merge", source="pruned/other")


def test_blocks_longer_than_the_context_are_refused_before_training(project: Path) -> None:
    drawn = torch.zeros(2, 65, dtype=torch.int32)
    write_tensors(project / "artifacts/stats/long/tokens.safetensors", {"tokens": drawn})
    with pytest.raises(UserError, match=r"training examples of 65 tokens: the model's context is 64"):
        finetune(data="stats/long")
    assert not (project / "artifacts/unfinished/adapters").exists()
