"""The report on fine-tuned runs: their rows, what the training did to held-out text, and a warning where it did harm."""

from pathlib import Path
from typing import Any

import pytest
import vl_convert
import yaml

from secateur.artifacts import read_json, write_json
from secateur.errors import UserError
from stages import report
from stages.reporting import labels, plots, tables
from stages.reporting.finetune_plots import finetune_plots, outcomes, trainings
from stages.reporting.results import Study, read_study
from tests.report_data import hashed, write_project

RUN = "smollm2--wiki--wanda--50--site"
CURVE = [(0, None, 60.0), (1, 4.1, None), (2, 3.9, 50.0), (3, 3.7, None), (4, 3.6, 44.5)]
MODES = {"unmerged": ("lora", 44.0), "masked_merge": ("lora", 49.0), "masked_training": ("masked-lora", 46.0)}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tuned_project(root: Path, after: float = 44.5) -> dict[str, Any]:
    """The made-up study with its wanda run fine-tuned in three modes; `after` is the held-out perplexity at the end."""
    params = write_project(root, tasks=(), corpora={"wikipedia": 24})
    study = params["report"]["studies"]["smoke"]
    plain = read_json(root / "results" / "ppl" / f"{RUN}--wikipedia-512-w24.json")
    for mode, (training, value) in MODES.items():
        subject, key = f"{RUN}--short--{mode.replace('_', '-')}", f"{RUN}--short--{training}"
        study["tuned"][subject] = {"run": RUN, "name": "short", "finetune": key, "mode": mode}
        study["subjects"].append(subject)
        study["ppl"].append(f"{subject}--wikipedia-512-w24")
        params["ppl"][f"{subject}--wikipedia-512-w24"] = {"subject": subject, "corpus": "wikipedia", "joiner": "\n\n"}
        provenance = plain["provenance"] | {"adapter": hashed(key)}
        changed = {"subject": subject, "perplexity": value, "provenance": provenance}
        write_json(root / "results" / "ppl" / f"{subject}--wikipedia-512-w24.json", plain | changed)
        points = [
            {"step": step, "loss": loss, "learning_rate": loss and 0.001, "held_out_perplexity": after if step == 4 else held_out}
            for step, loss, held_out in CURVE
        ]
        result = {"finetune": key, "steps": 4, "kept_step": 4, "trained_parameters": 1000, "curve": points}
        result |= {"perplexity_before": 60.0, "perplexity_after": after, "provenance": provenance}
        write_json(root / "results" / "finetune" / f"{key}.json", result)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return params


def study_of(root: Path, params: dict[str, Any]) -> Study:
    return read_study("smoke", params["report"]["studies"]["smoke"], ["smollm2"], root / "results")


def values(drawn: plots.Plot) -> list[dict[str, Any]]:
    """Everything that a plot draws, whether its data stand in it or are named."""
    inline = drawn.spec["data"].get("values")
    return inline if inline is not None else drawn.spec["datasets"][drawn.spec["data"]["name"]]


def test_every_mode_is_a_row_beside_its_run(project: Path) -> None:
    study = study_of(project, tuned_project(project))
    named = labels.labels(study.rows)
    assert [named[row.subject] for row in study.rows if row.method == "wanda" and row.setting("propagation") == "site"] == [
        "wanda 50 % · site",
        "wanda 50 % · site · short, unmerged",
        "wanda 50 % · site · short, masked merge",
        "wanda 50 % · site · short, masked training",
    ]
    (column,) = [column for column in tables.perplexity_columns(study) if "wikipedia" in column.title]
    assert [cell.main for cell in column.cells[-3:]] == ["44.00", "49.00", "46.00"]
    assert [cell.best for cell in column.cells[-3:]] == [True, False, False], "ranked among themselves"
    assert len(study.runs) == len(study.pruned) - 3


def test_one_fine_tuned_row_alone_is_told_from_its_run(project: Path) -> None:
    params = tuned_project(project)
    study = params["report"]["studies"]["smoke"]
    for mode in ("masked-merge", "masked-training"):
        subject = f"{RUN}--short--{mode}"
        study["subjects"].remove(subject)
        study["ppl"].remove(f"{subject}--wikipedia-512-w24")
        study["tuned"].pop(subject)
    found = study_of(project, params)
    assert "wanda 50 % · site · short, unmerged" in labels.labels(found.rows).values()


def test_a_training_is_drawn_once_and_its_outcome_told(project: Path) -> None:
    study = study_of(project, tuned_project(project))
    assert list(trainings(study)) == [f"{RUN}--short--lora", f"{RUN}--short--masked-lora"]
    assert outcomes(study) == [(key, "60.00 → 44.50", False) for key in trainings(study)]
    loss, held_out = finetune_plots(study)
    for drawn, title, points in ((loss, "training loss", 4), (held_out, "held-out perplexity", 3)):
        assert drawn.title == title
        assert len(values(drawn)) == 2 * points
        assert title in vl_convert.vegalite_to_svg(drawn.spec | {"width": 300})


def test_a_training_that_did_harm_is_named_as_such(project: Path) -> None:
    tuned_project(project, after=61.0)
    report.run()
    page = (project / "results" / "report.html").read_text(encoding="utf-8")
    assert page.count("60.00 → 61.00: <strong>worse than before</strong>") == 2
    tuned_project(project)
    report.run()
    page = (project / "results" / "report.html").read_text(encoding="utf-8")
    assert "60.00 → 44.50" in page and "<strong>worse" not in page


def test_what_was_pruned_is_drawn_once_however_often_it_was_trained(project: Path) -> None:
    study = study_of(project, tuned_project(project))
    sizes = [value["subject"] for drawn in plots.size_plots(study) for value in values(drawn)]
    assert {"wanda 50 % · site", "dense"} <= {*sizes} and not any("short" in name for name in sizes)


def test_metrics_of_another_adapter_are_refused(project: Path) -> None:
    params = tuned_project(project)
    file = project / "results" / "finetune" / f"{RUN}--short--lora.json"
    write_json(file, read_json(file) | {"provenance": {"adapter": hashed("other")}})
    with pytest.raises(UserError, match=rf"{RUN}--short--unmerged--wikipedia-512-w24 was measured with adapter [0-9a-f]{{12}}"):
        study_of(project, params)


def test_a_missing_training_names_its_stage(project: Path) -> None:
    params = tuned_project(project)
    (project / "results" / "finetune" / f"{RUN}--short--lora.json").unlink()
    with pytest.raises(UserError, match=rf"dvc repro lora-finetune@{RUN}--short--lora"):
        study_of(project, params)
