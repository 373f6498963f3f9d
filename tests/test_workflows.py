"""Workflows for forks: they parse, call what exists, and give a token that may write to nothing that runs a stranger's code."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.drift import changes
from pipelines import select
from tests.code_of import ROOT
from tests.flow_project import make, run

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.y*ml"))
SHARED = {"make", "mkdir", "cat", "echo", "head", "gh", ".ci/run"}  # programs, and files of this repository


def load(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def triggers(path: Path) -> Any:
    return load(path)[True]  # YAML 1.1 reads the key `on` as a truth


def scripts() -> list[str]:
    commands = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    return [*commands, (ROOT / ".ci" / "run").read_text(encoding="utf-8")]


def test_the_workflows_are_there() -> None:
    assert {path.stem for path in WORKFLOWS} == {"tests", "repro", "report", "comment"}


def test_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = [name for script in scripts() for name in re.findall(r"\bmake (?:--\w+ )*([a-z]+)", script)]
    assert set(called) == {"lint", "test", "gate", "repro", "changes"}
    assert set(called) <= targets
    for path in WORKFLOWS:
        for step in steps(path):
            first = [line.split()[0] for line in step.get("run", "").splitlines() if line]
            assert all(word in SHARED or "=" in word or word.startswith("[") for word in first), f"{path.name}: {first}"


def test_the_small_gate_is_a_row_of_the_default_study() -> None:
    targets = [target for script in scripts() for target in re.findall(r"--target ([\w@-]+)", script)]
    assert targets
    for target in targets:
        stage, _, key = target.partition("@")
        assert stage == "eval-ppl" and key in select.tables_of(["smoke"]).ppl


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_token_that_may_write_sees_no_foreign_code(path: Path) -> None:
    """`comment` alone may write; it runs after `report`, checks nothing out and gets what it prints through the environment."""
    workflow = load(path)
    assert "pull_request_target" not in triggers(path)
    assert all("permissions" not in job and job["timeout-minutes"] for job in workflow["jobs"].values())
    rights = workflow["permissions"]
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    assert not any("${{" in step.get("run", "") for step in steps(path)), "an event's text must not become a command"
    assert "secrets." not in path.read_text(encoding="utf-8")
    if "write" in rights.values():
        assert path.stem == "comment" and list(triggers(path)) == ["workflow_run"]
        assert rights == {"actions": "read", "pull-requests": "write"}
        assert not any("checkout" in action for action in used)
        assert triggers(path)["workflow_run"]["workflows"] == [load(FOLDER / "report.yml")["name"]]
        calls = [step["run"] for step in steps(path) if "run" in step]
        assert not any(word in call for call in calls for word in ("make", "python", "bash", "sh ", "eval", "source"))
    else:
        assert rights == {"contents": "read"}


HEADER = "study,subject,model,achieved,ppl/wiki,zeroshot/olmo/boolq/acc,zeroshot/olmo/boolq/acc_stderr"


def test_the_page_shows_what_was_and_what_is() -> None:
    old = f"{HEADER}\nsmoke,dense,m,0.0,19.7,0.5,0.1\nsmoke,gone,m,0.5,40.0,0.4,0.1\n"
    new = f"{HEADER}\nsmoke,dense,m,0.0,19.9,0.5,0.2\nsmoke,added,m,0.5,30.0,,\n"
    assert changes.report_table(old, new).splitlines() == [
        "| study | subject | achieved | ppl/wiki | zeroshot/olmo/boolq/acc |",
        "| --- | --- | ---: | ---: | ---: |",
        "| smoke | dense | 0 | 19.7 → **19.9** | 0.5 |",
        "| smoke | added (new) | 0.5 | 30 | – |",
        "| smoke | gone (gone) | 0.5 | 40 | 0.4 |",
    ]
    assert len(changes.report_table("", new).splitlines()) == 4, "a first report has nothing to be compared with"


def test_a_page_of_an_unknown_commit_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert changes.main(["no-such-commit"]) == 2
    assert changes.main([]) == 2
    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["error:"] * 2


def test_a_page_of_what_dvc_cannot_read_is_refused(tmp_path: Path) -> None:
    """DVC itself would call all of it gone."""
    project = make(tmp_path / "project")
    run(project, "dvc", "repro")
    (project / "results").mkdir()
    (project / changes.REPORT).write_text(f"{HEADER}\nsmoke,dense,m,0.0,19.7,0.5,0.1\n")
    page = (sys.executable, "-m", "flows.drift.changes", "HEAD")
    assert "| smoke | dense (new) |" in run(project, *page).stdout
    (project / changes.REPORT).write_text("a,b\n1\n")
    told = run(project, *page, check=False)
    assert told.returncode == 2 and told.stdout.startswith("error: results/report.csv is damaged")
    for file in ("dvc.yaml", "dvc.lock"):
        whole = (project / file).read_text()
        (project / file).write_text("<<<<<<< HEAD\n" + whole)
        told = run(project, *page, check=False)
        assert told.returncode == 2 and told.stdout.startswith("error: ") and told.stdout.count("\n") == 1, told.stdout
        (project / file).write_text(whole)
