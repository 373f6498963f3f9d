"""The rows of the tables in params.yaml, one model each.

`expand.py` makes rows with these models and the stages read them back with the same ones, so neither can drift from the
other. Rows are frozen, unknown keys are errors, and nothing is coerced ("0.5" is not a number).
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipelines.schema.values import (
    Bundle,
    Columns,
    Device,
    Digests,
    Holdout,
    Mode,
    Pattern,
    Positive,
    Source,
    Sparsity,
    Strict,
    Table,
    Training,
)

DOWNLOADER, PRUNER = "stages/download.py", "stages/prune.py"


class Compute(Strict):
    """What changes the last digits: the number of threads (sums differ between 1 and 2) and the device."""

    threads: Annotated[int, Field(gt=0, le=1024)] = 2
    device: Device = "auto"


class Fetched(Strict):
    """Where an asset comes from, and which of the source's files it is."""

    source: Source
    sha256: Digests | None = None
    files: list[str] | None = None
    reader: str | None = None


class FetchedText(Fetched):
    """A text. `config` is a configuration of a Hub data set. A document is the text in `column`, or a JSON object of several
    `columns`. `holdout` moves documents of `train` to the split `heldout`: every k-th, those in [first, end], or {count, seed}:
    as many as are drawn at random."""

    config: str | None = None
    column: str | None = None
    columns: Columns | None = None
    holdout: Holdout | None = None


class DownloadRow(FetchedText):
    """One asset. `path` is relative to `artifacts/`; which of the optional fields it has depends on the kind.

    `splits` maps a split to the file pattern or the slice of the source that holds it, for repositories of which only a
    part is wanted. `watch` is what DVC watches besides the code: the path of a `file:` source, else a file that it watches
    anyway.
    """

    kind: Literal["model", "corpus", "tasks"]
    path: str
    watch: str = DOWNLOADER
    splits: dict[str, str] | None = None
    tasks: list[str] | None = None


class StatsRow(Strict):
    """One calibration of one model: which tokens, and how much is kept of what the model does with them."""

    model: str
    corpus: str
    split: str
    sampler: str
    samples: Positive
    length: Positive
    seed: Annotated[int, Field(ge=0)]
    bundle: Bundle


class AllocationRow(Strict):
    """One rule measured on one dense model, and spread over its blocks for one target."""

    model: str
    source: str
    calibration: str | None
    rule: str
    options: dict[str, Any]
    sparsity: Sparsity
    pattern: Pattern


class RunRow(Strict):
    """One pruned model. `source` is a stats artifact, or the model itself when the method needs no data; `gradients` likewise.

    `allocation` is "uniform", a table, or the name of a rule whose table lies in the file `shares`. `watch` is the file that
    an option of the method names, else one that DVC watches anyway.
    """

    model: str
    source: str
    gradients: str
    calibration: str | None
    method: str
    options: dict[str, Any]
    sparsity: Sparsity
    pattern: Pattern
    count: Literal["reference", "exact"]
    propagation: Literal["site", "block", "dense"]
    allocation: str | Table
    shares: str
    watch: str = PRUNER
    refinement: str
    refinement_options: dict[str, Any]
    update: str
    update_options: dict[str, Any]


class FineTuneRow(Strict):
    """One training of a run's survivors. `source` is the run; `data` and `validation` are tokens below `artifacts/`, the second
    the run's own folder where nothing is held out. `training` is what the forward pass multiplies with: `lora` (W plus adapters),
    `masked_lora` (both under the mask), `dense` (the survivors themselves)."""

    model: str
    source: str
    data: str
    validation: str
    recipe: str
    training: Training
    options: dict[str, Any]


class Subject(Strict):
    """What is evaluated: a dense model or a run (`source`), or what `mode` makes of a run and its fine-tuning in `adapter`
    (the same as `source` where there is none)."""

    subject: str
    model: str
    source: str
    adapter: str
    mode: Mode | None


class PerplexityRow(Subject):
    """Perplexity of one subject on one text: its first `documents`, the first `windows`; null means all of them."""

    corpus: str
    split: str
    joiner: str
    documents: Positive | None
    protocol: Literal["A", "B"]
    length: Annotated[int, Field(ge=2)]
    windows: Positive | None


class ZeroshotRow(Subject):
    """Accuracy of one subject on zero-shot tasks; `limit: null` means all documents."""

    data: str
    tasks: list[str]
    limit: Positive | None


class Tuned(Strict):
    """Where a fine-tuned subject comes from: its run, the fine-tuning's name in the study, its row, and the mode."""

    run: str
    name: str
    finetune: str
    mode: Mode


class ReportStudy(Strict):
    """The keys that belong to one study, in the order in which its YAML names them."""

    title: str
    subjects: list[str]
    runs: list[str]
    tuned: dict[str, Tuned]
    ppl: list[str]
    zeroshot: list[str]


class Report(Strict):
    """Everything that the report shows."""

    studies: dict[str, ReportStudy]
