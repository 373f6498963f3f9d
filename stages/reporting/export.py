"""The report's numbers as CSV: one row per subject, and the long tables behind DVC's plots."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stages.reporting import labels
from stages.reporting.results import Row, Study


def report_csv(studies: Sequence[Study]) -> str:
    """One row per study and subject; metric columns are the union over the studies, empty where not measured."""
    metrics = list(dict.fromkeys(name for study in studies for row in study.rows for name, _ in _metrics(row)))
    settings = ("propagation", "calibration", "allocation", "refinement", "update", *labels.OPTIONS)
    head = ["study", "subject", "model", "method", "pattern", "sparsity", "achieved", *settings]
    lines = []
    for study in studies:
        for row in study.rows:
            found = dict(_metrics(row))
            first = [study.name, row.subject, row.model, row.method, row.pattern, row.sparsity, row.achieved]
            texts = [labels.setting(row.setting(name)) for name in settings]
            size = row.run.bytes if row.run else None
            sizes = [row.bytes_dense, *([size.packed, size.masks, size.values] if size else [None] * 3)]
            lines.append([*first, *texts, *sizes, *(found.get(name) for name in metrics)])
    sizes = [f"bytes_{name}" for name in ("dense", "packed", "masks", "values")]
    return _csv([*head, *sizes, *metrics], lines)


def perplexity_csv(studies: Sequence[Study]) -> str:
    """Long table subject, method, sparsity, corpus (with length and windows), perplexity; each subject once."""
    lines = {
        (row.subject, row.method, row.sparsity, column, result.perplexity): None
        for study in studies
        for row in study.rows
        for column, result in row.ppl.items()
    }
    return _csv(["subject", "method", "sparsity", "corpus", "perplexity"], lines)


def layers_csv(studies: Sequence[Study]) -> str:
    """Long table run, block, layer, sparsity; each run once."""
    runs = {row.subject: row.run for study in studies for row in study.runs if row.run}
    lines = [
        (name, int(number), layer, found.sparsity)
        for name, run in runs.items()
        for number, block in run.blocks.items()
        for layer, found in block.layers.items()
    ]
    return _csv(["run", "block", "layer", "sparsity"], lines)


def _metrics(row: Row) -> Iterator[tuple[str, float]]:
    for column, result in row.ppl.items():
        yield f"ppl/{column}", result.perplexity
    for column, found in row.zeroshot.items():
        for task, score in found.tasks.items():
            for name in ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr"):
                value = getattr(score, name)
                if value is not None:
                    yield f"zeroshot/{column}/{task}/{name}", value
        for rule, mean in found.means.items():
            yield f"zeroshot/{column}/mean/{rule}", mean.mean


def _csv(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return text.getvalue()
