"""The published values that belong beside a study's own: which those are, `pipelines/published.py` says."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.published import facts, published_names, same_accuracy, same_perplexity, same_subject
from stages.reporting import labels
from stages.reporting.result_files import Zeroshot
from stages.reporting.results import Row, Study


@dataclass(frozen=True)
class Reference:
    """A published value that belongs beside `metric` (`ppl`, a task or a mean's rule) of one subject and column."""

    subject: str
    metric: str
    column: str
    text: str
    source: str
    hint: str


def references(study: Study, params: Mapping[str, Any]) -> list[Reference]:
    """All published values that match a value of the study; `params` has the tables `download` and `ppl`."""
    known, download = facts(), params["download"]
    found = []
    for row in study.rows:
        if row.tuned:  # the published rows were not fine-tuned
            continue
        names = published_names(row.model, download)
        same = [fact for fact in known if fact["model"] in names and same_subject(fact, row, download)]
        for column, result in row.ppl.items():
            joiner = params["ppl"][f"{row.subject}--{column}"]["joiner"]
            matches = [fact for fact in same if same_perplexity(fact, result, joiner, download)]
            found += _reference(row, "ppl", column, result.perplexity, matches, 1.0)
        for column, result in row.zeroshot.items():
            for metric, ours, test in _accuracies(result):
                matches = [fact for fact in same if same_accuracy(fact, metric, test, result.limit)]
                found += _reference(row, metric, column, ours, matches, 100.0)
    return found


def notes(study: Study, found: Sequence[Reference], params: Mapping[str, Any]) -> list[str]:
    """One sentence per model that says why no published value stands beside its rows; empty where some do."""
    with_values = {reference.subject for reference in found}
    sentences = []
    for model in dict.fromkeys(row.model for row in study.rows):
        if any(row.subject in with_values for row in study.rows if row.model == model):
            continue
        if published_names(model, params["download"]):
            sentences.append(
                f"Published numbers for {model} exist, but none was measured as here (same text, context length, "
                "all windows or items, calibration and propagation), so none is shown."
            )
        else:
            sentences.append(f"No published number exists for {model}.")
    return sentences


def _accuracies(result: Zeroshot) -> Iterable[tuple[str, float, str]]:
    """(metric, our value, dataset as published) of every mean and of every task of a zero-shot result."""
    for rule, mean in result.means.items():
        if len(mean.tasks) == mean.of:
            yield rule, mean.mean, "mean"
    for task, score in result.tasks.items():
        normed = task in ("hellaswag", "arc_challenge", "openbookqa") and score.acc_norm is not None
        yield task, score.acc_norm if normed and score.acc_norm is not None else score.acc, task


def _reference(
    row: Row, metric: str, column: str, ours: float, facts: Sequence[Mapping[str, str]], scale: float
) -> list[Reference]:
    """The matching facts as one reference (sources that disagree are listed), or nothing."""
    if not facts:
        return []
    values = list(dict.fromkeys(fact["value"] for fact in facts))
    sources = ", ".join(dict.fromkeys(fact["source"] for fact in facts))
    difference = ours * scale / float(values[0]) - 1
    hint = f"ours is {100 * difference:+.1f} % away from {labels.perplexity(float(values[0]))}"
    return [Reference(row.subject, metric, column, " / ".join(values), sources, hint)]
