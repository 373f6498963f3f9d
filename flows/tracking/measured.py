"""A subject's settings as MLflow's parameters, and its results as metrics, under the names of results/report.csv."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.tracking.content import Point
from pipelines.schema import PRUNER
from secateur.artifacts import read_json
from secateur.errors import UserError
from stages.reporting import labels
from stages.reporting.result_files import FineTuned, Sparsity
from stages.reporting.results import Row

LONGEST = 6000  # characters of a parameter, for MLflow
INNER = {"source", "gradients", "shares", "watch"}  # where a row finds its inputs: the md5 tags say more


def params(row: Row, tables: Mapping[str, Any], origin: Mapping[str, Any] | None) -> dict[str, str]:
    """The row that the result was made from, its calibration's, its fine-tuning's, and how each metric was measured."""
    found: dict[str, Any] = {"model": row.model, "method": row.method, "finetune": row.finetune}
    found["model.source"] = tables["download"].get(f"model-{row.model}", {}).get("source")
    if row.run:
        found |= {name: value for name, value in row.run.settings.run.items() if name not in INNER}
        found["propagation"] = labels.shown(row, "propagation")  # none for a run that looks at no data
        found |= {f"calibration.{name}": value for name, value in (row.run.settings.calibration or {}).items()}
    if origin:
        trained = (tables.get("finetunes") or {}).get(origin["finetune"], {})
        found |= {f"finetune.{name}": value for name, value in trained.items() if name not in INNER}
        found["finetune.mode"] = origin["mode"]
    for column, ppl in row.ppl.items():
        found[f"ppl/{column}"] = f"{ppl.split}, protocol {ppl.protocol}, {ppl.windows} of {ppl.windows_available} x {ppl.length}"
    for column, zeroshot in row.zeroshot.items():
        found[f"zeroshot/{column}"] = labels.items(zeroshot.limit)
    texts = {name: labels.setting(value) for name, value in found.items()}
    return {name: _fitting(text) for name, text in texts.items() if text}


def points(row: Row) -> Iterator[Point]:
    """Every number of a subject. Accuracies and sparsities are fractions, sizes bytes; a curve has a point for each step."""
    for column, result in row.ppl.items():
        yield Point(f"ppl/{column}", result.perplexity)
        if result.nll_standard_error is not None:  # a single window has none
            yield Point(f"ppl/{column}/nll_standard_error", result.nll_standard_error)
    for column, found in row.zeroshot.items():
        for task, score in found.tasks.items():
            for name in ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr"):
                if (value := getattr(score, name)) is not None:
                    yield Point(f"zeroshot/{column}/{task}/{name}", value)
        for rule, mean in found.means.items():
            yield Point(f"zeroshot/{column}/mean/{rule}", mean.mean)
    yield Point("sparsity", row.sparsity)
    yield Point("achieved", row.achieved)
    if row.bytes_dense is not None:
        yield Point("bytes_dense", row.bytes_dense)
    if row.run:
        yield from _pruned(row.run)
    if row.tuned:
        yield from _trained(row.tuned)


def _pruned(run: Sparsity) -> Iterator[Point]:
    for name in ("packed", "masks", "values"):
        yield Point(f"bytes_{name}", getattr(run.bytes, name))
    for block, found in run.blocks.items():
        yield Point("block/sparsity", found.sparsity, int(block))
    shares = run.settings.run.get("shares", PRUNER)
    if shares != PRUNER and Path(shares).is_file():
        if not isinstance(table := read_json(Path(shares)), dict):
            raise UserError(f"{shares} is no allocation: it must be a JSON object; `dvc repro allocate` makes it")
        for name, values in table.items():
            if isinstance(values, list) and all(isinstance(value, int | float) for value in values):
                yield from (Point(f"allocation/{name}", value, block) for block, value in enumerate(values))


def _trained(tuned: FineTuned) -> Iterator[Point]:
    for name in ("perplexity_before", "perplexity_after", "kept_step", "trained_parameters"):
        if (value := getattr(tuned, name)) is not None:
            yield Point(f"finetune/{name}", value)
    for entry in tuned.curve:
        for name in ("loss", "learning_rate", "held_out_perplexity"):
            if (value := getattr(entry, name)) is not None:
                yield Point(f"finetune/{name}", value, entry.step)


def _fitting(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
