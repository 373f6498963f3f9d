"""dvc.yaml: every row becomes a stage, stages hang together, and each lists exactly the code that it runs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import Stage

from pipelines import select
from secateur.allocation import ALLOCATIONS
from secateur.methods import METHODS
from secateur.recovery import UPDATES
from secateur.refinement import REFINEMENTS
from tests.code_of import ROOT, code_of

GRAPH: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
TABLES = {
    "download": "download",
    "calibrate-stats": "stats",
    "allocate": "allocations",
    "prune": "runs",
    "lora-finetune": "finetunes",
    "eval-ppl": "ppl",
    "eval-zeroshot": "zeroshot",
}
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of DVC itself
DATA = ("artifacts/", "results/", "${item.watch}", "${item.shares}")


def body(stage: str) -> dict[str, Any]:
    return GRAPH["stages"][stage].get("do", GRAPH["stages"][stage])


@pytest.mark.parametrize("stage", GRAPH["stages"])
def test_code_dependencies_are_the_imports(stage: str) -> None:
    listed = {path for path in body(stage)["deps"] if not path.startswith(DATA)}
    data_files = {path for path in listed if Path(path).suffix not in ("", ".py")}
    wanted = code_of(ROOT / "stages" / f"{stage.replace('-', '_')}.py")
    assert listed - data_files == wanted, f"dvc.yaml, {stage}: code should be {sorted(wanted)}"
    assert all((ROOT / path).exists() for path in listed if "$" not in path)


def test_files_that_rows_name_are_watched() -> None:
    """An allocation's table, the file of an option, gradients: what a row names and a run reads."""
    assert {"${item.shares}", "${item.watch}", "artifacts/${item.gradients}"} <= set(body("prune")["deps"])
    assert "${item.watch}" in body("download")["deps"]


def test_a_registered_name_is_the_name_of_its_file() -> None:
    """dvc.yaml writes secateur/methods/${item.method}.py: that only works if it is so."""
    for registry in (ALLOCATIONS, METHODS, REFINEMENTS, UPDATES):
        for name in registry:
            assert registry.get(name).__module__.rpartition(".")[2] == name


def test_editing_an_evaluation_prunes_nothing_again() -> None:
    for stage in ("download", "calibrate-stats", "prune"):
        assert not any(path.startswith("secateur/evaluation") for path in body(stage)["deps"])
    for stage in ("eval-ppl", "eval-zeroshot", "report"):
        assert not any(path.startswith("secateur/methods") for path in body(stage)["deps"])


def name_of(stage: Stage) -> str:
    """`prune@KEY`, wherever the test runs."""
    return stage.addressing.rpartition(":")[2]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    folder = tmp_path_factory.mktemp("dvc")
    shutil.copy(ROOT / "dvc.yaml", folder)
    studies = ["smoke", "smoke-wide", "mirror-check"]
    (folder / "params.yaml").write_text(select.render(select.tables_of(studies)), encoding="utf-8")
    return Repo.init(str(folder), no_scm=True)


def test_every_row_is_a_stage(repo: Repo) -> None:
    tables = select.tables_of(["smoke", "smoke-wide", "mirror-check"])
    wanted = {f"{stage}@{key}" for stage, table in TABLES.items() for key in getattr(tables, table)}
    assert {name_of(stage) for stage in repo.index.stages} == wanted | {"report"}
    assert {name for name in GRAPH["stages"] if "foreach" in GRAPH["stages"][name]} == set(TABLES)


def test_stages_hang_together(repo: Repo) -> None:
    graph = {name_of(stage): {name_of(other) for other in repo.index.graph.successors(stage)} for stage in repo.index.stages}
    assert graph["prune@smollm2--wiki--wanda--50--dense"] == {
        "download@model-smollm2",
        "calibrate-stats@smollm2--wiki--moments",
    }
    assert graph["prune@smollm2--magnitude--50"] == {"download@model-smollm2"}
    assert graph["eval-ppl@smollm2--magnitude--50--wikitext2-512-w48"] == {
        "download@model-smollm2",
        "download@corpus-wikitext2",
        "prune@smollm2--magnitude--50",
    }
    run = "smollm2--wiki--wanda--50--site"
    assert graph[f"lora-finetune@{run}--masked--masked-lora"] == {
        "download@model-smollm2",
        "calibrate-stats@smollm2--blocks--tokens",
        "calibrate-stats@smollm2--unseen--tokens",
        f"prune@{run}",
    }
    for mode, training in (("unmerged", "short--lora"), ("masked-merge", "short--lora")):
        assert graph[f"eval-ppl@{run}--short--{mode}--wikipedia-512-w8"] == {
            "download@model-smollm2",
            "download@corpus-wikipedia",
            f"prune@{run}",
            f"lora-finetune@{run}--{training}",
        }
    read_by_report = {name for name in graph if name.startswith(("prune@", "lora-finetune@", "eval-"))}
    assert graph["report"] == read_by_report


def test_a_stage_reads_its_row_and_nothing_of_the_others(repo: Repo) -> None:
    for stage in repo.index.stages:
        read = {name for dependency in stage.params for name in dependency.params}
        if name_of(stage) == "report":
            assert read == {"report", "download", "ppl"}
            continue
        name, key = name_of(stage).split("@")
        assert read == {f"{TABLES[name]}.{key}"} | ({"compute"} if name != "download" else set())
        assert stage.cmd == f"python -m stages {name} {key}"


def test_stages_that_may_use_a_gpu_say_so() -> None:
    assert [name for name in GRAPH["stages"] if body(name).get("meta", {}).get("gpu")] == [
        "calibrate-stats",
        "allocate",
        "prune",
        "lora-finetune",
        "eval-ppl",
        "eval-zeroshot",
    ]


def test_the_report_has_folders_to_read_even_if_a_table_is_empty() -> None:
    folders = [path for path in body("report")["deps"] if path.startswith("results/")]
    assert len(folders) == 4
    assert all((ROOT / folder / ".gitkeep").is_file() for folder in folders)
