"""DVC's own index, as what a scheduler needs to know of it. The graph is written once, in dvc.yaml."""

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from secateur.errors import UserError, unknown_name


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: its address (`prune@KEY`), the addresses that must be done before it, and whether it computes on a
    GPU where there is one."""

    name: str
    needs: frozenset[str]
    gpu: bool


def read_graph(root: Path, targets: Iterable[str] = ()) -> dict[str, Stage]:
    """Stages of the project in `root` by name, each after all that it needs; with `targets`, these and what they need.

    A target is a stage (`prune@KEY`) or a whole table (`prune`). Raises a `UserError` for an unknown target and for a dvc.yaml
    or params.yaml that DVC cannot read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

    try:
        graph = Repo(str(root)).index.graph
    except DvcException as error:
        raise UserError(f"{root}: DVC cannot read this project ({error})") from None
    found: dict[str, Stage] = {}
    for stage in graph:
        if isinstance(stage, PipelineStage):
            needs = frozenset(str(other.name) for other in graph.successors(stage))
            found[str(stage.name)] = Stage(str(stage.name), needs, bool((stage.meta or {}).get("gpu")))
    order = list(TopologicalSorter({name: sorted(stage.needs) for name, stage in sorted(found.items())}).static_order())
    wanted = _with_needs(found, targets) if targets else set(order)
    return {name: found[name] for name in order if name in wanted}


def _with_needs(stages: dict[str, Stage], targets: Iterable[str]) -> set[str]:
    todo: list[str] = []
    for target in targets:
        named = [name for name in stages if name == target or name.startswith(f"{target}@")]
        if not named:
            raise unknown_name("stage", target, {*stages, *(name.partition("@")[0] for name in stages)})
        todo += named
    wanted: set[str] = set()
    while todo:
        if (name := todo.pop()) not in wanted:
            wanted.add(name)
            todo += stages[name].needs
    return wanted
