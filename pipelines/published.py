"""Published values, and which of them were measured as a row of ours is.

`pipelines/published.csv` holds the tables of the papers' own documents, verbatim (columns: source, model, method,
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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

PUBLISHED = Path(__file__).parent / "published.csv"

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
class Measured:
    """How a source measured: `length` by a model's published name, with a default; `split` by corpus."""

    name: str
    lengths: Mapping[str, int]
    default_length: int | None
    splits: Mapping[str, str]
    rule: str | None

    def length(self, model: str) -> int | None:
        return self.lengths.get(model, self.default_length)


_MAXIMUM = {"OPT-125M": 2048, "LLaMA-2-7B": 4096, "LLaMA-2-13B": 4096, "LLaMA-2-70B": 4096, "LLaMA-3-8B": 8192}
_GOA = Measured("B", {"GPT-2": 1024}, 128, {"wikitext2": "test", "ptb": "validation"}, "llm-pruner")
PROTOCOLS: Mapping[str, Measured] = {
    "D2Prune-README": Measured("A", _MAXIMUM, None, {"wikitext2": "test"}, "d2prune"),
    "DLP-README": Measured("A", {}, 2048, {"wikitext2": "test"}, None),
    **{f"GOA-Table{number}": _GOA for number in range(1, 6)},
}


# What D2Prune leaves un-updated in each model, if it is not the default.
NO_UPDATE = {"LLaMA-2-7B": "v", "LLaMA-2-70B": "v", "LLaMA-3-8B": "v"}

Fact = Mapping[str, str]


class Subject(Protocol):
    """A dense model, or a run: planned or done."""

    @property
    def model(self) -> str: ...
    @property
    def run(self) -> Any: ...
    @property
    def method(self) -> str: ...
    @property
    def pattern(self) -> str: ...
    @property
    def sparsity(self) -> float: ...
    def setting(self, name: str) -> Any: ...
    def calibrated(self, name: str) -> Any: ...


def facts() -> list[Fact]:
    """Every row of the table."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published_names(model: str, download: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which the tables list these weights; known only for models from the Hub."""
    return MODELS.get(_repository(f"model-{model}", download), ())


def _repository(asset: str, download: Mapping[str, Any]) -> str:
    """`org/name` of a downloaded asset that comes from the Hub, else an empty string."""
    source = download.get(asset, {}).get("source", "")
    return source.removeprefix("hf:").partition("@")[0] if source.startswith("hf:") else ""


def _d2prune(fact: Fact) -> bool:
    return fact["method"] == "D2Prune" and fact["model"] in NO_UPDATE


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def same_subject(fact: Fact, row: Subject, download: Mapping[str, Any]) -> bool:
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
        and row.setting("options") == ({"no_update": NO_UPDATE[fact["model"]]} if _d2prune(fact) else {})
    )
    if not same or row.setting("calibration") is None:
        return same
    length = PROTOCOLS[fact["source"]].length(fact["model"])
    return (
        row.setting("propagation") == "block"
        and _repository(f"corpus-{row.calibrated('corpus')}", download) == CALIBRATION
        and (row.calibrated("samples"), row.calibrated("length")) == (128, length)
    )


def same_perplexity(fact: Fact, result: Any, joiner: str, download: Mapping[str, Any]) -> bool:
    protocol = PROTOCOLS[fact["source"]]
    asset = f"corpus-{result.corpus}"
    corpus, config = CORPORA.get(_repository(asset, download), ("", ""))
    return (
        (fact["metric"], fact["dataset"]) == ("ppl", corpus)
        and download[asset]["config"] == config
        and result.windows == result.windows_available
        and joiner == "\n\n"
        and result.protocol == protocol.name
        and result.length == protocol.length(fact["model"])
        and result.split == protocol.splits.get(corpus)
    )


def same_accuracy(fact: Fact, metric: str, dataset: str, limit: int | None) -> bool:
    if limit is not None:
        return False
    if dataset == "mean":
        return fact["metric"] == "acc_mean" and PROTOCOLS[fact["source"]].rule == metric
    return fact["metric"] == "acc" and TASKS.get(fact["dataset"], fact["dataset"]) == dataset
