"""A project folder with one pruned tiny model and fine-tunings of it as a study would list them, for the tests of stages."""

import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import secateur
from pipelines.schema import PRUNER
from secateur import Recipe
from secateur.artifacts import write_json, write_tensors
from secateur.finetune.recipes import EVERY_LINEAR, TRAININGS
from secateur.outputs import seal_folder
from secateur.sparsity import measure
from tests.test_finetune import HELD_OUT, TRAINED

RUN = "tiny--magnitude--50"
RUN_ROW: dict[str, Any] = {
    "model": "tiny",
    "source": "models/tiny",
    "gradients": "models/tiny",
    "calibration": None,
    "method": "magnitude",
    "options": {},
    "sparsity": 0.5,
    "pattern": "unstructured",
    "count": "reference",
    "propagation": "dense",
    "allocation": "uniform",
    "shares": PRUNER,
    "watch": PRUNER,
    "refinement": "none",
    "refinement_options": {},
    "update": "none",
    "update_options": {},
}
OPTIONS: dict[str, Any] = {
    "targets": list(EVERY_LINEAR),
    "batch": 8,
    "micro_batch": 4,
    "epochs": 4,
    "rate": 0.02,
    "warmup": 2,
    "interval": 5,
    "rank": 4,
    "alpha": 8,
}
STEPS = 12


def subject(mode: str) -> str:
    """The name of a fine-tuned subject."""
    return f"{RUN}--short--{mode.replace('_', '-')}"


def training_key(training: str) -> str:
    """The key of a fine-tuning."""
    return f"{RUN}--short--{training.replace('_', '-')}"


def make_project(root: Path, tiny: Path, **options: Any) -> Path:
    """Everything that the stage lora-finetune reads, for the model in folder `tiny`."""
    artifacts = root / "artifacts"
    partial = shutil.copytree(tiny, artifacts / "partial")
    words = Tokenizer(models.WordLevel({str(number): number for number in range(96)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(partial)
    seal_folder(partial, model := artifacts / "models" / "tiny")
    secateur.prune(model, Recipe("magnitude", 0.5), artifacts / "pruned" / RUN, device="cpu")
    write_json(root / "results" / "sparsity" / f"{RUN}.json", measure(artifacts / "pruned" / RUN, model))
    for name, tokens in (("blocks", TRAINED), ("unseen", HELD_OUT)):
        write_tensors(artifacts / "stats" / name / "tokens.safetensors", {"tokens": tokens})
    shared = {"model": "tiny", "source": f"pruned/{RUN}", "data": "stats/blocks", "validation": "stats/unseen"}
    finetunes = {
        training_key(training): shared
        | {"recipe": "dense_ft" if training == "dense" else "wanda", "training": training, "options": OPTIONS | options}
        for training in dict.fromkeys(TRAININGS.values())
    }
    tuned = {
        subject(mode): {"run": RUN, "name": "short", "finetune": training_key(training), "mode": mode}
        for mode, training in TRAININGS.items()
    }
    study = {"title": "t", "subjects": ["tiny", RUN, *tuned], "runs": [RUN], "tuned": tuned, "ppl": [], "zeroshot": []}
    tables = {
        "compute": {"threads": torch.get_num_threads(), "device": "cpu"},
        "runs": {RUN: RUN_ROW},
        "finetunes": finetunes,
        "report": {"studies": {"study": study}},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(tables), encoding="utf-8")
    return root
