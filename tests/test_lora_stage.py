"""The stage lora-finetune as commands start it: by itself, and in two processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from secateur.artifacts import check_folder, identity, read_json
from secateur.finetune.load import finetuned
from secateur.finetune.origin import Origin
from tests.finetune_project import RUN, STEPS, make_project, training_key
from tests.test_finetune import zeros_are_the_mask

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_two_processes_run_the_stage(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    """`accelerate launch`, with the flags that docs/fine-tuning.md names: one adapter, one result, written once."""
    project, key = make_project(tmp_path, tiny_model("llama"), dropout=0.0), training_key("masked_lora")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["compute"]["threads"] = 1  # of each process
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0", "--module"]
    given = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launch, "stages", "lora-finetune", key]
    done = subprocess.run(command, cwd=project, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    model, run, out = (project / "artifacts" / path for path in ("models/tiny", f"pruned/{RUN}", f"adapters/{key}"))
    assert check_folder(out) == [] and not (project / "artifacts" / "unfinished" / "adapters" / key).exists()
    result = read_json(project / "results" / "finetune" / f"{key}.json")
    assert result["provenance"]["adapter"] == identity(out) and result["steps"] == STEPS
    assert result["perplexity_after"] < 0.8 * result["perplexity_before"]
    assert (project / "results" / "loss" / f"{key}.csv").read_text() == (out / "loss.csv").read_text()
    zeros_are_the_mask(finetuned(model, run, out, "masked_training", device="cpu"), Origin(model, run))
