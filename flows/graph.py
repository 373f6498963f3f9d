"""DVC's own index, as what a scheduler needs to know of it. The graph is written once, in dvc.yaml."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from graphlib import TopologicalSorter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipelines.select import PARAMS, render
from pipelines.tables import Tables
from secateur.errors import UserError, unknown_name


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: its address (`prune@KEY`), the addresses that must be done before it, and whether it computes on a
    GPU where there is one."""

    name: str
    needs: frozenset[str]
    gpu: bool


def read_graph(root: Path, targets: Iterable[str] = (), tables: Tables | None = None) -> dict[str, Stage]:
    """Stages of the project in `root` by name, each after all that it needs; with `targets`, these and what they need.

    A target is a stage (`prune@KEY`) or a whole table (`prune`). With `tables`, the graph is that of a params.yaml that holds
    them. Raises a `UserError` for an unknown target and for a dvc.yaml or params.yaml that DVC cannot read.
    """
    from dvc.stage import PipelineStage

    if tables is None:
        graph = _graph(root)
    else:
        with TemporaryDirectory() as folder:  # a project of nothing but the graph
            (elsewhere := Path(folder) / ".dvc").mkdir()
            (elsewhere / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
            shutil.copy(root / "dvc.yaml", folder)
            (Path(folder) / PARAMS).write_text(render(tables), encoding="utf-8")
            graph = _graph(Path(folder))
    found: dict[str, Stage] = {}
    for stage in graph:
        if isinstance(stage, PipelineStage):
            needs = frozenset(str(other.name) for other in graph.successors(stage))
            found[str(stage.name)] = Stage(str(stage.name), needs, bool((stage.meta or {}).get("gpu")))
    order = list(TopologicalSorter({name: sorted(stage.needs) for name, stage in sorted(found.items())}).static_order())
    wanted = _with_needs(found, targets) if targets else set(order)
    return {name: found[name] for name in order if name in wanted}


def _graph(root: Path) -> Any:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        return Repo(str(root)).index.graph
    except (DvcException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{root}: DVC cannot read this project ({' '.join(str(error).split())})") from None


def _with_needs(stages: dict[str, Stage], targets: Iterable[str]) -> set[str]:
    todo: list[str] = []
    for target in targets:
        named = [name for name in stages if name == target or name.startswith(f"{target}@")]
        if not named:
            near = get_close_matches(target, stages, n=3, cutoff=0.5)  # of hundreds
            raise unknown_name("stage", target, {*near, *(name.partition("@")[0] for name in stages)})
        todo += named
    wanted: set[str] = set()
    while todo:
        if (name := todo.pop()) not in wanted:
            wanted.add(name)
            todo += stages[name].needs
    return wanted
