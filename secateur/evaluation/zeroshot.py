"""Zero-shot accuracy with lm-eval's stock task definitions on local data.

Prompts, choices, metrics and versions are those of the installed lm-eval; only the source of the documents is replaced:
`<data>/<task>/<split>.parquet`, read into memory, so nothing is looked up on the network or cached in a home folder. A
task is evaluated on the split that lm-eval evaluates (ARC and OpenBookQA: test) where the data has it, else on
validation; the result names the split.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from secateur.errors import UserError, unknown_name
from secateur.evaluation.likelihood import overflow
from secateur.finite import check_weights
from secateur.tokens import check_range, embedding_rows

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Task -> the folder of its stock definition inside lm_eval.tasks, and the columns that the definition reads.
TASKS: dict[str, tuple[str, frozenset[str]]] = {
    "arc_challenge": ("arc", frozenset({"question", "choices", "answerKey"})),
    "arc_easy": ("arc", frozenset({"question", "choices", "answerKey"})),
    "boolq": ("super_glue/boolq", frozenset({"passage", "question", "label"})),
    "hellaswag": ("hellaswag", frozenset({"activity_label", "ctx_a", "ctx_b", "endings", "label"})),
    "openbookqa": ("openbookqa", frozenset({"question_stem", "choices", "answerKey"})),
    "piqa": ("piqa", frozenset({"goal", "sol1", "sol2", "label"})),
    "rte": ("glue/rte", frozenset({"sentence1", "sentence2", "label"})),
    "winogrande": ("winogrande", frozenset({"sentence", "option1", "option2", "answer"})),
}

# The published means: which tasks, and which metric of each. D2Prune takes acc_norm where a task has it.
MEANS: dict[str, dict[str, str]] = {
    "wanda": {
        "boolq": "acc",
        "rte": "acc",
        "hellaswag": "acc",
        "winogrande": "acc",
        "arc_easy": "acc",
        "arc_challenge": "acc",
        "openbookqa": "acc",
    },
    "d2prune": {
        "boolq": "acc",
        "rte": "acc",
        "hellaswag": "acc_norm",
        "winogrande": "acc",
        "arc_easy": "acc_norm",
        "arc_challenge": "acc_norm",
        "openbookqa": "acc_norm",
    },
    "llm-pruner": {
        "boolq": "acc",
        "piqa": "acc",
        "hellaswag": "acc_norm",
        "winogrande": "acc",
        "arc_easy": "acc",
        "arc_challenge": "acc_norm",
        "openbookqa": "acc_norm",
    },
}
FEWSHOT_SEED = 1234  # lm-eval's own default; with no examples in the prompt nothing is drawn from it


def evaluate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    data_dir: Path,
    tasks: list[str],
    limit: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> dict[str, Any]:
    """Accuracy of each task and the named means; `limit` takes the first documents of each task, `None` takes all.

    Tasks are run one after the other, so the numbers of one do not depend on which others are asked for. Raises
    `UserError` for an unknown task, a limit below 1, data that is missing or lacks a column, a weight that is not finite (it is
    named), and a prompt with a token that the model does not know.
    """
    for task in tasks:
        if task not in TASKS:
            raise unknown_name("zero-shot task", task, TASKS)
    if not tasks or (limit is not None and limit < 1):
        raise UserError(f"tasks {tasks}, limit {limit}: needs a task, and a limit of at least 1 or null for all")
    check_weights(model)
    with _quiet():
        manager = _stock_tasks()
        harness = _harness(model, tokenizer, batch_size, progress)
        scores = {task: _evaluate_task(harness, manager, data_dir, task, limit) for task in tasks}
    return {"limit": limit, "tasks": scores, "means": means(scores)}


def means(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Unweighted means under each named rule, over those of its tasks that were run.

    `tasks` names them and `of` says how many the published mean has. A rule none of whose tasks was run is left out.
    """
    found = {}
    for rule, metrics in MEANS.items():
        present = [task for task in metrics if task in scores]
        if present:
            mean = sum(scores[task][metrics[task]] for task in present) / len(present)
            found[rule] = {"mean": mean, "tasks": present, "of": len(metrics)}
    return found


def _evaluate_task(harness: Any, manager: "TaskManager", data_dir: Path, name: str, limit: int | None) -> dict[str, Any]:
    """Run one task and keep its figures only: lm-eval's other entries hold dates, paths and the environment."""
    from lm_eval import evaluate as run

    task, split = _local_task(manager, data_dir, name, limit)
    loaded = {"tasks": {name: task}, "groups": {}, "group_map": {}}
    raw: Any = run(harness, loaded, limit=limit, log_samples=False, bootstrap_iters=1)  # means have a closed-form error
    figures = raw["results"][name]
    kept: dict[str, Any] = {
        "version": raw["versions"][name],
        "split": split,
        "samples": raw["n-samples"][name]["effective"],
    }
    for metric in ("acc", "acc_norm"):
        if f"{metric},none" in figures:
            error = figures[f"{metric}_stderr,none"]
            kept[metric] = float(figures[f"{metric},none"])
            kept[f"{metric}_stderr"] = None if error == "N/A" else float(error)  # one document has no spread
    return kept


def _stock_tasks() -> "TaskManager":
    """lm-eval's definitions of the known tasks; indexing all of its 10 000 files would take 14 s."""
    from lm_eval.tasks import TaskManager

    stock = resources.files("lm_eval.tasks")
    folders = sorted({str(stock.joinpath(folder)) for folder, _ in TASKS.values()})
    return TaskManager(include_path=list(folders), include_defaults=False)


def _local_task(manager: "TaskManager", data_dir: Path, name: str, limit: int | None) -> "tuple[Task, str]":
    """The stock task over the local documents, and the split they come from."""
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from pyarrow import parquet

    stock = manager.task_index[name].cfg or {}
    splits = [stock[key] for key in ("test_split", "validation_split") if stock.get(key)]
    present = [split for split in splits if (data_dir / name / f"{split}.parquet").is_file()]
    if not present:
        wanted = " or ".join(f"{split}.parquet" for split in splits)
        raise UserError(f"{data_dir / name} has no {wanted}: download the data of the task {name!r} first")
    split = present[0]
    table = parquet.read_table(data_dir / name / f"{split}.parquet")
    lacking = TASKS[name][1] - set(table.column_names)
    if lacking or not table.num_rows:
        raise UserError(
            f"{data_dir / name / split}.parquet has {table.num_rows} rows, columns {sorted(table.column_names)}; "
            f"the task {name!r} reads {sorted(TASKS[name][1])}"
        )
    rows = table.slice(0, limit)  # lm-eval would prepare every document, then drop those beyond the limit
    member = {
        "task": name,
        "custom_dataset": lambda **_: {split: Dataset(InMemoryTable(rows))},
        "training_split": None,  # only few-shot prompts read it
        "validation_split": split if split == stock.get("validation_split") else None,
        "test_split": split if split == stock.get("test_split") else None,
        "num_fewshot": 0,
    }
    # Only members of a group are merged with the stock definition; a plain dict would replace it.
    task = manager.load({"group": "local", "task": [member]})["tasks"][name]
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return task, split


def _harness(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_size: int, progress: bool) -> Any:
    """lm-eval's own class for a loaded model, with a bar of its own if `progress`."""
    from lm_eval.models.huggingface import HFLM

    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has neither a bos nor an eos token; lm-eval needs one of them")
    rows = embedding_rows(model)
    untyped: Any = HFLM  # its registration decorator hides the class from type checkers

    class Harness(untyped):
        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            found = super().loglikelihood(requests, disable_tqdm=not progress)
            if odd := next((value for value, _ in found if not math.isfinite(value)), None):
                raise overflow(f"a log-likelihood is {odd}", model.dtype)
            return found

        def _model_call(self, inps: Any, *arguments: Any, **named: Any) -> Any:
            check_range(inps, rows, "prompts")
            return super()._model_call(inps, *arguments, **named)

    return Harness(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's remarks about its own defaults, and its and datasets' bars over steps of milliseconds."""
    import datasets
    from tqdm import tqdm

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.utils.are_progress_bars_disabled()
    with ExitStack() as undo:
        undo.callback(logger.setLevel, level)
        logger.setLevel(logging.ERROR)
        if not bars:
            undo.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        undo.enter_context(patch.object(import_module("lm_eval.api.task"), "tqdm", partial(tqdm, disable=True)))
        yield
