"""`compare` and `register`: a study as MLflow has it, and its best run as a registered model."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from flows import compare, register, track
from flows.__main__ import app
from flows.tracking.rules import Wanted, best
from secateur.errors import UserError
from tests.mlflow_state import state, subjects
from tests.tracked_data import COLUMN, TUNED, WANDA, edit

SPARSEGPT = "smollm2--wiki--sparsegpt--50--site"
ON_WIKIPEDIA = Wanted(corpus="wikipedia")


@pytest.fixture
def project(tracked_copy: Path) -> Path:
    return tracked_copy


def test_the_table_says_what_was_measured(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare.run("smoke")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].startswith("smoke: 8 subjects")
    assert "wikipedia-512-w24 ppl" in lines[1] and "finetune" in lines[1]
    assert "calibration" not in lines[1], "in which the pruned rows do not differ"
    assert "zeroshot" not in lines[1] and "arc_easy" in lines[1]
    cells = [line.split() for line in lines[3:]]
    assert [row[0] for row in cells] == ["dense", "sparsegpt", "sparsegpt", "wanda", "sparsegpt", "wanda", "wanda", "magnitude"]
    assert "18.07" in lines[3] and "0.00" in lines[3]
    assert "short, unmerged" in lines[6] and "51.85" in lines[6] and "119 MB" in lines[6]


def test_a_study_that_is_not_there(project: Path) -> None:
    shown = CliRunner().invoke(app, ["compare", "smok"])
    assert shown.exit_code == 2
    assert shown.stderr.startswith("error: unknown study 'smok'; did you mean smoke? (known: smoke); `python -m flows track`")


@pytest.mark.parametrize("command", ["compare", "register"])
def test_nothing_tracked_yet_names_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shown = CliRunner().invoke(app, [command, "smoke"])
    assert shown.exit_code == 2 and "nothing is tracked yet" in shown.stderr and "`python -m flows track`" in shown.stderr
    assert not list(tmp_path.iterdir()), "asking makes no database"


def test_the_best_is_registered_once(project: Path, client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(client)
    wanted = Wanted(sparsity_at_least=0.5, corpus="wikipedia")
    assert register.run("smoke", "lowest-perplexity", wanted) == "1"
    assert f"{TUNED}: ppl/{COLUMN} = 51.848; registered as secateur-smoke version 1" in capsys.readouterr().out
    assert register.run("smoke", "lowest-perplexity", wanted) == "1"
    assert "was registered already" in capsys.readouterr().out
    (version,) = client.search_model_versions("name = 'secateur-smoke'")
    run = subjects(client)[TUNED]
    assert version.run_id == run.info.run_id and version.source == f"runs:/{run.info.run_id}/model"
    assert version.tags["secateur.subject"] == TUNED and version.tags["dvc.masks"] == f"artifacts/pruned/{WANDA}"
    for tensor in ("dvc.model", "dvc.masks", "dvc.adapter"):
        assert version.tags[f"{tensor}.md5"] == run.data.tags[f"dvc.md5/{version.tags[tensor]}"]
        assert version.tags[tensor] in str(version.description), "what it takes to have the model"
    aliased = client.get_model_version_by_alias("secateur-smoke", "lowest-perplexity")
    assert aliased.version == version.version
    assert state(client) == before, "registering writes into no run"


@pytest.mark.parametrize("wrong", [Wanted(corpus="nope"), Wanted(corpus="wikipedia", mean="nope")])
def test_what_a_rule_does_not_look_at_is_looked_at(project: Path, client: MlflowClient, wrong: Wanted) -> None:
    with pytest.raises(UserError, match="'nope' fits none"):
        register.run("smoke", "smallest", wrong)
    assert not client.search_registered_models()


def test_an_alias_goes_to_what_the_rule_chose_last(project: Path, client: MlflowClient) -> None:
    assert register.run("smoke", "lowest-perplexity", ON_WIKIPEDIA) == "1"  # 30 %
    assert register.run("smoke", "lowest-perplexity", Wanted(corpus=COLUMN, pattern="2:4")) == "2"
    assert register.run("smoke", "lowest-perplexity", Wanted(corpus=COLUMN, pattern="2:4")) == "2"
    assert str(client.get_model_version_by_alias("secateur-smoke", "lowest-perplexity").version) == "2"
    assert register.run("smoke", "highest-accuracy", Wanted(pattern="2:4")) == "2"
    assert len(client.search_model_versions("name = 'secateur-smoke'")) == 2


def test_new_numbers_of_the_same_tensors_are_no_new_version(project: Path, client: MlflowClient) -> None:
    wanted = Wanted(sparsity_at_least=0.5, corpus="wikipedia")
    register.run("smoke", "lowest-perplexity", wanted)
    edit(project, "ppl", f"{TUNED}--{COLUMN}", perplexity=51.0)
    track.run()
    assert register.run("smoke", "lowest-perplexity", wanted) == "1"
    (version,) = client.search_model_versions("name = 'secateur-smoke'")
    assert version.tags["secateur.run"] == subjects(client)[TUNED].info.run_id != version.run_id


def test_the_command_takes_the_options(project: Path) -> None:
    asked = ["register", "smoke", "--rule", "smallest", "--corpus", "wikipedia", "--perplexity-at-most", "62"]
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0 and SPARSEGPT in shown.stdout, shown.stderr
    shown = CliRunner().invoke(app, [*asked[:-1], "2"])
    assert shown.exit_code == 2
    assert shown.stderr == (
        "error: no pruned subject of 'smoke' has bytes_packed and perplexity at most 2.0, corpus wikipedia; ask for less\n"
    )


def made(values: Sequence[tuple[str, str, float, dict[str, float]]]) -> list[Any]:
    """Runs as MLflow gives them: name, method, sparsity, metrics."""
    return [
        SimpleNamespace(
            info=SimpleNamespace(run_name=name),
            data=SimpleNamespace(
                params={"method": method, "model": name.partition("--")[0], "pattern": "unstructured"},
                metrics={"sparsity": sparsity, **metrics},
            ),
        )
        for name, method, sparsity, metrics in values
    ]


def chosen(runs: Sequence[Any], rule: str, **wanted: Any) -> str:
    return best("s", runs, rule, Wanted(**wanted))[0].info.run_name


def test_rules() -> None:
    runs = made(
        [
            ("m", "dense", 0.0, {"ppl/a": 1.0, "zeroshot/t/mean/wanda": 0.9}),
            (
                "m--x",
                "wanda",
                0.5,
                {"ppl/a": 3.0, "ppl/a/nll": 0.1, "zeroshot/t/mean/wanda": 0.3, "bytes_packed": 5},
            ),
            ("m--y", "alps", 0.5, {"ppl/a": 3.0, "zeroshot/t/mean/wanda": 0.2, "bytes_packed": 5}),
            ("m--z", "alps", 0.3, {"ppl/a": 2.0, "zeroshot/t/mean/wanda": 0.6, "bytes_packed": 7}),
            ("m--not-measured", "alps", 0.9, {}),
        ]
    )
    assert chosen(runs, "lowest-perplexity") == "m--z", "never the dense model"
    assert chosen(runs, "lowest-perplexity", sparsity_at_least=0.5) == "m--x", "equal ones by name"
    assert chosen(runs, "highest-accuracy") == "m--z" and chosen(runs, "smallest", perplexity_at_most=2.5) == "m--z"
    assert chosen(runs, "smallest") == "m--x"
    for wanted, rule, said in (
        ({}, "lowest-ppl", "unknown rule 'lowest-ppl'; did you mean lowest-perplexity"),
        ({"model": "n"}, "smallest", r"unknown model 'n' \(known: m\)"),
        ({"corpus": "b"}, "lowest-perplexity", "--corpus 'b' fits none; there are a"),
        ({"mean": "mine"}, "highest-accuracy", "--mean 'mine' fits none; there are zeroshot/t/mean/wanda"),
        (
            {"sparsity_at_least": 0.9},
            "lowest-perplexity",
            "no pruned subject of 's' has ppl/a and sparsity at least 0.9",
        ),
    ):
        with pytest.raises(UserError, match=said):
            chosen(runs, rule, **wanted)
    two = [*runs, *made([("n--x", "wanda", 0.5, {"ppl/a": 1.5, "ppl/b": 1.0})])]
    with pytest.raises(UserError, match=r"several models; choose with --model \(m, n\)"):
        best("s", two, "lowest-perplexity", Wanted())
    with pytest.raises(UserError, match="--corpus is needed; there are a, b"):
        best("s", two, "lowest-perplexity", Wanted(model="n"))
    assert chosen(two, "lowest-perplexity", model="n", corpus="b") == "n--x"
