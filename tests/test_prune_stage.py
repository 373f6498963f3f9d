"""The stage `prune` on a tiny model: what it reads, and what it says of that in its result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

import secateur
from pipelines.schema import PRUNER, RunRow
from secateur.artifacts import identity, read_json, sha256, write_json
from secateur.outputs import seal_folder
from stages import prune

TinyModel = Callable[[str], Path]
TREE = {"data": "mul", "left": {"data": "W"}, "right": {"data": "G"}}


@pytest.fixture
def project(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with a sealed model, its tokens and its gradients, an allocation and a formula."""
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "artifacts" / "models" / "tiny"
    secateur.assemble(tiny_model("llama"), device="cpu").save_pretrained(tmp_path / "partial")
    seal_folder(tmp_path / "partial", model)
    secateur.calibrate(model, tokens, tmp_path / "artifacts" / "stats" / "tokens", bundle="tokens", device="cpu")
    secateur.gradients(model, tokens, tmp_path / "artifacts" / "stats" / "gradients", device="cpu")
    write_json(tmp_path / "results" / "allocation" / "table.json", {"table": [0.4, 0.5, 0.6]})
    write_json(tmp_path / "tree.json", TREE)
    return tmp_path


def run(**changes: Any) -> dict[str, Any]:
    """The result of the stage for one row."""
    row = {
        "model": "tiny",
        "source": "stats/tokens",
        "gradients": "models/tiny",
        "calibration": "c",
        "method": "wanda",
        "options": {},
        "sparsity": 0.5,
        "pattern": "unstructured",
        "count": "reference",
        "propagation": "site",
        "allocation": "uniform",
        "shares": PRUNER,
        "refinement": "none",
        "refinement_options": {},
        "update": "none",
        "update_options": {},
    }
    row = RunRow.model_validate(row | changes).model_dump()
    tables = {"compute": {"threads": torch.get_num_threads(), "device": "cpu"}, "runs": {"row": row}}
    Path("params.yaml").write_text(yaml.safe_dump(tables), encoding="utf-8")
    prune.run("row", force=True)
    return read_json(Path("results/sparsity/row.json"))


def test_the_result_names_everything_that_the_run_was_made_of(project: Path) -> None:
    artifacts, shares, tree = project / "artifacts", "results/allocation/table.json", "tree.json"
    changes = {"method": "formula", "options": {"file": tree}, "watch": tree, "gradients": "stats/gradients", "shares": shares}
    first = run(**changes, allocation="owl")["provenance"]
    assert first == {
        "model": identity(artifacts / "models" / "tiny"),
        "tokens": sha256(artifacts / "stats" / "tokens" / "tokens.safetensors"),
        "statistics": None,
        "gradients": identity(artifacts / "stats" / "gradients"),
        "allocation": sha256(project / shares),
        "file": sha256(project / tree),
        "masks": identity(artifacts / "pruned" / "row"),
    }
    write_json(project / tree, {"data": "abs", "left": TREE})
    second = run(**changes, allocation="owl")["provenance"]
    assert {name for name in first if first[name] != second[name]} == {"file", "masks"}


def test_what_was_not_read_is_not_named(project: Path) -> None:
    found = run()
    assert [found["provenance"][name] for name in ("gradients", "allocation", "file")] == [None] * 3
    assert "choices" not in found


def test_choices_reach_the_result(project: Path) -> None:
    choices = run(method="d2prune", options={"dynamic": "kl"})["choices"]
    assert list(choices) == ["block_000", "block_001", "block_002"]
    assert all({*block["states"]} > {"UUU", "NNN"} and block["dynamic"] == "kl" for block in choices.values())
