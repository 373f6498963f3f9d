"""DVC's index as a scheduler reads it."""

from pathlib import Path

import pytest

from flows.graph import read_graph
from secateur.errors import UserError
from tests.flow_project import ROOT


def test_the_study_in_use() -> None:
    stages = read_graph(ROOT)
    seen: set[str] = set()
    for name, stage in stages.items():
        assert stage.needs <= seen, f"{name} comes before what it needs"
        seen.add(name)
    assert stages["download@model-smollm2"].needs == frozenset() and not stages["download@model-smollm2"].gpu
    assert stages["prune@smollm2--magnitude--50"].needs == {"download@model-smollm2"}
    assert stages["prune@smollm2--magnitude--50"].gpu and not stages["report"].gpu


def test_targets_bring_what_they_need_and_no_more() -> None:
    wanted = ["download@model-smollm2", "prune@smollm2--magnitude--50"]
    assert list(read_graph(ROOT, ["prune@smollm2--magnitude--50"])) == wanted
    assert {name.partition("@")[0] for name in read_graph(ROOT, ["prune"])} == {"download", "calibrate-stats", "prune"}


@pytest.mark.parametrize(("target", "hint"), [("prun", "did you mean prune"), ("prune@x", "unknown stage 'prune@x'")])
def test_an_unknown_target_is_one_line(target: str, hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        read_graph(ROOT, [target])


def test_a_broken_project_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="DVC cannot read this project"):
        read_graph(tmp_path)
