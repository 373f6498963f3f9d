"""Published values that were measured as ours were.

`stages/published.csv` holds the tables of the papers' own documents, verbatim (columns: source, model, method,
allocation, sparsity, pattern, dataset, metric, value). What those tables do not say, the protocol, stands here, from
the papers' code:

* D2Prune's README: perplexity protocol A at the model's own context (OPT 2048, LLaMA-2 4096, LLaMA-3 8192), the mean of
  seven tasks under the rule `d2prune`; DLP's README: protocol A at 2048 for every model. Both calibrate on 128 samples
  of C4 as long as the evaluation's windows, and observe each block behind the pruned blocks before it.
* GOA's tables: protocol B at 128 (GPT-2: 1024), PTB from its validation split, tasks and mean by the rule `llm-pruner`.

A perplexity at another length, on a part of the windows or behind another propagation is a different quantity, so no
value is shown beside it.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.reporting import labels
from stages.reporting.results import Perplexity, Row, Study, Zeroshot

PUBLISHED = Path(__file__).parent.parent / "published.csv"

# Hub repository -> the names that the tables give to those weights.
MODELS: Mapping[str, tuple[str, ...]] = {
    "facebook/opt-125m": ("OPT-125M",),
    "openai-community/gpt2": ("GPT-2",),
    "huggyllama/llama-7b": ("LLaMA-7B", "LLaMA1-7B"),
    "huggyllama/llama-13b": ("LLaMA-13B", "LLaMA1-13B"),
    "huggyllama/llama-30b": ("LLaMA1-30B",),
    "meta-llama/Llama-2-7b-hf": ("LLaMA-2-7B", "LLaMA2-7B"),
    "meta-llama/Llama-2-13b-hf": ("LLaMA-2-13B", "LLaMA2-13B"),
    "meta-llama/Llama-2-70b-hf": ("LLaMA-2-70B",),
    "meta-llama/Meta-Llama-3-8B": ("LLaMA-3-8B",),
}
# Hub repository -> the name of the text in the tables and the configuration that it needs.
CORPORA: Mapping[str, tuple[str, str]] = {
    "Salesforce/wikitext": ("wikitext2", "wikitext-2-raw-v1"),
    "ptb-text-only/ptb_text_only": ("ptb", "penn_treebank"),
}
CALIBRATION = "allenai/c4"
TASKS = {"arc_e": "arc_easy", "arc_c": "arc_challenge", "obqa": "openbookqa"}


@dataclass(frozen=True)
class Protocol:
    """How a source measured: `length` by a model's published name, with a default; `split` by corpus."""

    name: str
    lengths: Mapping[str, int]
    default_length: int | None
    splits: Mapping[str, str]
    rule: str | None

    def length(self, model: str) -> int | None:
        return self.lengths.get(model, self.default_length)


_MAXIMUM = {"OPT-125M": 2048, "LLaMA-2-7B": 4096, "LLaMA-2-13B": 4096, "LLaMA-2-70B": 4096, "LLaMA-3-8B": 8192}
_GOA = Protocol("B", {"GPT-2": 1024}, 128, {"wikitext2": "test", "ptb": "validation"}, "llm-pruner")
PROTOCOLS: Mapping[str, Protocol] = {
    "D2Prune-README": Protocol("A", _MAXIMUM, None, {"wikitext2": "test"}, "d2prune"),
    "DLP-README": Protocol("A", {}, 2048, {"wikitext2": "test"}, None),
    **{f"GOA-Table{number}": _GOA for number in range(1, 6)},
}


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
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        facts = list(csv.DictReader(file))
    found = []
    for row in study.rows:
        names = published_names(row.model, params)
        same = [fact for fact in facts if fact["model"] in names and _same_subject(fact, row, params)]
        for column, result in row.ppl.items():
            joiner = params["ppl"][f"{row.subject}--{column}"]["joiner"]
            matches = [fact for fact in same if _same_perplexity(fact, result, joiner, params)]
            found += _reference(row, "ppl", column, result.perplexity, matches, 1.0)
        for column, result in row.zeroshot.items():
            for metric, ours, test in _accuracies(result):
                matches = [fact for fact in same if _same_accuracy(fact, metric, test, result)]
                found += _reference(row, metric, column, ours, matches, 100.0)
    return found


def notes(study: Study, found: Sequence[Reference], params: Mapping[str, Any]) -> list[str]:
    """One sentence per model that says why no published value stands beside its rows; empty where some do."""
    with_values = {reference.subject for reference in found}
    sentences = []
    for model in dict.fromkeys(row.model for row in study.rows):
        if any(row.subject in with_values for row in study.rows if row.model == model):
            continue
        if published_names(model, params):
            sentences.append(
                f"Published numbers for {model} exist, but none was measured as here (same text, context length, "
                "all windows or items, calibration and propagation), so none is shown."
            )
        else:
            sentences.append(f"No published number exists for {model}.")
    return sentences


def published_names(model: str, params: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which the tables list these weights; known only for models from the Hub."""
    return MODELS.get(_repository(f"model-{model}", params), ())


def _repository(asset: str, params: Mapping[str, Any]) -> str:
    """`org/name` of a downloaded asset that comes from the Hub, else an empty string."""
    source = params["download"].get(asset, {}).get("source", "")
    return source.removeprefix("hf:").partition("@")[0] if source.startswith("hf:") else ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _same_subject(fact: Mapping[str, str], row: Row, params: Mapping[str, Any]) -> bool:
    """Dense is dense; a run needs the same method (no options), amount, pattern, allocation and way of calibrating."""
    if row.run is None:
        return fact["method"] == "Dense"
    same = (
        _plain(fact["method"]) == _plain(row.method)
        and fact["pattern"] == row.pattern
        and fact["sparsity"] == f"{row.sparsity:g}"
        and fact["allocation"] == row.setting("allocation")
        and row.setting("refinement") == "none"
        and row.setting("update") == "none"
        and row.setting("count") == "reference"
        and not row.setting("options")
    )
    if not same or row.setting("calibration") is None:
        return same
    length = PROTOCOLS[fact["source"]].length(fact["model"])
    return (
        row.setting("propagation") == "block"
        and _repository(f"corpus-{row.calibrated('corpus')}", params) == CALIBRATION
        and (row.calibrated("samples"), row.calibrated("length")) == (128, length)
    )


def _same_perplexity(fact: Mapping[str, str], result: Perplexity, joiner: str, params: Mapping[str, Any]) -> bool:
    protocol = PROTOCOLS[fact["source"]]
    asset = f"corpus-{result.corpus}"
    corpus, config = CORPORA.get(_repository(asset, params), ("", ""))
    return (
        (fact["metric"], fact["dataset"]) == ("ppl", corpus)
        and params["download"][asset]["config"] == config
        and result.windows == result.windows_available
        and joiner == "\n\n"
        and result.protocol == protocol.name
        and result.length == protocol.length(fact["model"])
        and result.split == protocol.splits.get(corpus)
    )


def _accuracies(result: Zeroshot) -> Iterable[tuple[str, float, str]]:
    """(metric, our value, dataset as published) of every mean and of every task of a zero-shot result."""
    for rule, mean in result.means.items():
        if len(mean.tasks) == mean.of:
            yield rule, mean.mean, "mean"
    for task, score in result.tasks.items():
        normed = task in ("hellaswag", "arc_challenge", "openbookqa") and score.acc_norm is not None
        yield task, score.acc_norm if normed and score.acc_norm is not None else score.acc, task


def _same_accuracy(fact: Mapping[str, str], metric: str, dataset: str, result: Zeroshot) -> bool:
    if result.limit is not None:
        return False
    if dataset == "mean":
        return fact["metric"] == "acc_mean" and PROTOCOLS[fact["source"]].rule == metric
    return fact["metric"] == "acc" and TASKS.get(fact["dataset"], fact["dataset"]) == dataset


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
