"""One window of text and one item of a task have no standard error: null in the result, and nowhere a reason to stop."""

import csv
from pathlib import Path
from typing import Any

import pytest

from flows.drift.tolerances import within
from flows.tracking import measured
from secateur.artifacts import read_json, write_json
from secateur.evaluation.perplexity import aggregate
from stages import readme, report
from stages.reporting import labels, markdown, plots, tables
from stages.reporting.results import Study, read_study
from tests.report_data import write_project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of one window and one item, with what `aggregate` makes of a single loss."""
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, corpora={"wikipedia": 1}, limit=1)
    for file in sorted((tmp_path / "results" / "ppl").iterdir()):
        found = read_json(file)
        write_json(file, found | aggregate([found["mean_nll"]], found["length"]))
    for file in sorted((tmp_path / "results" / "zeroshot").iterdir()):
        found = read_json(file)
        tasks = {
            task: {name: None if name.endswith("stderr") else value for name, value in score.items()}
            for task, score in found["tasks"].items()
        }
        write_json(file, found | {"tasks": tasks})
    return tmp_path


def study(root: Path) -> Study:
    import yaml

    params: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    return read_study("smoke", params["report"]["studies"]["smoke"], ["smollm2"], root / "results")


def test_the_report_is_made(project: Path) -> None:
    report.run()
    page = (project / "results" / "report.html").read_text(encoding="utf-8")
    assert "none: a single window" in page and "a single window has no standard error" in page
    assert "None" not in page.partition("<script")[0] and "± nan" not in page
    rows = list(csv.DictReader((project / "results" / "report.csv").open(encoding="utf-8")))
    assert rows[0]["ppl/wikipedia-512-w1"] and not any("stderr" in name for name in rows[0])


def test_cells_and_plots_have_the_value_alone(project: Path) -> None:
    found = study(project)
    assert labels.perplexity_error(next(iter(found.rows[0].ppl.values()))) == "a single window has no standard error"
    cells = tables.perplexity_columns(found)[0].cells
    assert cells[0].main == "18.07" and "±" not in cells[0].hint
    assert tables.zeroshot_columns(found)[0].cells[0].main == "64.0"
    assert len(plots.perplexity_plots(found)) == 1 and len(plots.zeroshot_plots(found)) == 3
    assert markdown.perplexity_svg(found)


def test_a_windows_spread_is_shown_where_there_are_two(project: Path) -> None:
    file = sorted((project / "results" / "ppl").iterdir())[0]
    write_json(file, read_json(file) | aggregate([2.0, 2.2], 512) | {"windows": 2})
    found = next(row.ppl for row in study(project).rows if f"{row.subject}--wikipedia-512-w1" == file.stem)
    assert labels.perplexity_error(next(iter(found.values()))) == "± 0.82"


def test_what_is_not_there_is_no_metric(project: Path) -> None:
    points = {point.metric: point.value for point in measured.points(study(project).rows[0])}
    assert points["ppl/wikipedia-512-w1"] == pytest.approx(18.07)
    assert not any(name.endswith(("standard_error", "stderr")) for name in points) and None not in points.values()


def test_none_equals_none_and_no_number() -> None:
    place, none, some = "nll_standard_error", {"nll_standard_error": None}, {"nll_standard_error": 0.02}
    assert within(place, none, none, False)
    assert not within(place, none, some, False) and not within(place, some, none, False)


def test_the_readme_is_made(project: Path) -> None:
    (project / "README.md").write_text("<!-- smoke:begin -->\n<!-- smoke:end -->\n", encoding="utf-8")
    report.run()
    readme.run()
    assert "18.07" in (project / "README.md").read_text(encoding="utf-8")
