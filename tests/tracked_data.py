"""A project folder after a study was run: params.yaml, results/, the report and a dvc.lock that agree with each other."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from secateur.artifacts import read_json, write_json, write_text
from tests.report_data import RUNS, hashed, write_project

WANDA, TUNED, TRAINING = "smollm2--wiki--wanda--50--site", "smollm2--wiki--wanda--50--site--short--unmerged", "short--lora"
COLUMN, TASKS = "wikipedia-512-w24", "olmo-l25"
STEPS = 6


def make_project(root: Path, runs: Sequence[tuple[str, str, float, str | None, float]] = RUNS, **options: Any) -> dict[str, Any]:
    """The study `smoke` with one fine-tuned subject; returns the tables. `options` are those of `write_project`."""
    tables = write_project(root, runs=runs, **options)
    described = tables["report"]["studies"]["smoke"]
    tables["runs"] = {key: result(root, "sparsity", key)["settings"]["run"] for key in described["runs"]}
    tables["finetunes"] = {
        f"{WANDA}--{TRAINING}": {"model": "smollm2", "recipe": "wanda", "options": {"rate": 0.003, "batch": 8}}
    }
    if WANDA in described["runs"]:
        _tune(root, described)
    write_text(root / "params.yaml", yaml.safe_dump(tables, sort_keys=False))
    write_lock(root, described)
    return tables


def write_report(root: Path) -> None:
    """The report's tables as the stage writes them, and a page in the place of the real one, which takes seconds to draw."""
    from stages.reporting import export
    from stages.reporting.results import read_study

    tables = yaml.safe_load((root / "params.yaml").read_text())
    studies = [read_study(name, table, ["smollm2"], root / "results") for name, table in tables["report"]["studies"].items()]
    write_text(root / "results" / "report.csv", export.report_csv(studies))
    write_text(root / "results" / "plots" / "perplexity.csv", export.perplexity_csv(studies))
    write_text(root / "results" / "plots" / "layers.csv", export.layers_csv(studies))
    write_text(root / "results" / "report.html", "<!doctype html><title>report</title>")


def result(root: Path, folder: str, key: str) -> dict[str, Any]:
    """A result file."""
    return read_json(root / "results" / folder / f"{key}.json")


def edit(root: Path, folder: str, key: str, **changes: Any) -> None:
    """Fields of a result file set to other values, as if its stage had been run again."""
    write_json(root / "results" / folder / f"{key}.json", result(root, folder, key) | changes)


def drop(root: Path, *subjects: str) -> None:
    """Take subjects out of the study, as `python -m pipelines use` does after their rows were deleted; results stay."""
    tables = yaml.safe_load((root / "params.yaml").read_text())
    described = tables["report"]["studies"]["smoke"]
    for field in ("subjects", "runs"):
        described[field] = [name for name in described[field] if name not in subjects]
    described["tuned"] = {name: origin for name, origin in described["tuned"].items() if name not in subjects}
    for folder in ("ppl", "zeroshot"):
        gone = {key for key in described[folder] if result(root, folder, key)["subject"] in subjects}
        described[folder] = [key for key in described[folder] if key not in gone]
    write_text(root / "params.yaml", yaml.safe_dump(tables, sort_keys=False))


def _tune(root: Path, described: dict[str, Any]) -> None:
    """A training of Wanda's run with its curve, and how the subject that came of it was measured."""
    key, provenance = f"{WANDA}--{TRAINING}", result(root, "sparsity", WANDA)["provenance"]
    curve = [{"step": 0, "loss": None, "learning_rate": None, "held_out_perplexity": 40.3}]
    for step in range(1, STEPS + 1):
        held_out = 40.0 - step if step % 3 == 0 else None
        curve.append({"step": step, "loss": 4.2 - 0.1 * step, "learning_rate": 0.003, "held_out_perplexity": held_out})
    write_json(
        root / "results" / "finetune" / f"{key}.json",
        {"finetune": key, "steps": STEPS, "kept_step": STEPS, "trained_parameters": 2_442_240, "curve": curve}
        | {"perplexity_before": 40.3, "perplexity_after": 34.0}
        | {"provenance": {**provenance, "adapter": hashed(key), "data": hashed("blocks"), "validation": hashed("unseen")}},
    )
    described["subjects"].insert(described["subjects"].index(WANDA) + 1, TUNED)
    described["tuned"][TUNED] = {"run": WANDA, "name": "short", "finetune": key, "mode": "unmerged"}
    for folder in ("ppl", "zeroshot"):
        for other in [name for name in described[folder] if name.startswith(f"{WANDA}--") and not name.startswith(TUNED)]:
            measured = result(root, folder, other)
            name = other.replace(WANDA, TUNED)
            measured |= {"subject": TUNED, "provenance": {**measured["provenance"], "adapter": hashed(key)}}
            measured |= {"perplexity": 0.8 * measured["perplexity"]} if folder == "ppl" else {}
            write_json(root / "results" / folder / f"{name}.json", measured)
            described[folder].append(name)


def write_lock(root: Path, described: dict[str, Any]) -> None:
    """dvc.lock in DVC's form: md5 of the result files as they are, made-up ones of the tensors."""
    model, text = _out("artifacts/models/smollm2"), _out("artifacts/corpora/wikipedia")
    stages = {}
    for run in described["runs"]:
        code = {"path": "stages/prune.py", "hash": "md5", "md5": "0" * 32}
        outs = [_out(f"artifacts/pruned/{run}"), _file(root, f"results/sparsity/{run}.json")]
        stages[f"prune@{run}"] = {"deps": [model, _out("artifacts/stats/smollm2--wiki--tokens"), code], "outs": outs}
    for origin in described["tuned"].values():
        key = origin["finetune"]
        outs = [_out(f"artifacts/adapters/{key}"), _file(root, f"results/finetune/{key}.json")]
        deps = [model, _out(f"artifacts/pruned/{origin['run']}"), _out("artifacts/stats/smollm2--blocks--tokens")]
        stages[f"lora-finetune@{key}"] = {"deps": deps, "outs": outs}
    for table, stage in (("ppl", "eval-ppl"), ("zeroshot", "eval-zeroshot")):
        for key in described[table]:
            data = text if table == "ppl" else _out("artifacts/tasks/olmo")
            stages[f"{stage}@{key}"] = {"deps": [model, data], "outs": [_file(root, f"results/{table}/{key}.json")]}
    for name, stage in stages.items():
        stage["cmd"] = f"python -m stages {name.replace('@', ' ')}"
    write_text(root / "dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": stages}))


def _out(path: str) -> dict[str, Any]:
    return {"path": path, "hash": "md5", "md5": f"{hashlib.md5(path.encode()).hexdigest()}.dir", "size": 1, "nfiles": 1}


def _file(root: Path, path: str) -> dict[str, Any]:
    return {"path": path, "hash": "md5", "md5": hashlib.md5((root / path).read_bytes()).hexdigest(), "size": 1}
