"""The report: tables, published values, determinism, errors, and the page itself in a headless browser."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import published as measured
from secateur.artifacts import read_json, write_json
from secateur.errors import UserError
from stages import readme, report
from stages.reporting import labels, layer_plots, plots, published, tables
from stages.reporting.results import Study, read_study
from tests.browser import visit
from tests.report_data import CALIBRATION, DENSE, RUNS, hashed, kl_choices, outlier_choices, write_project

HUB = "hf:facebook/opt-125m@main"
WIKITEXT = {"kind": "corpus", "source": "hf:Salesforce/wikitext@main", "config": "wikitext-2-raw-v1"}
C4 = {"kind": "corpus", "source": "hf:allenai/c4@main", "config": None}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def study_of(root: Path, params: dict[str, Any]) -> Study:
    ((name, table),) = params["report"]["studies"].items()
    models = [key.removeprefix("model-") for key in params["download"] if key.startswith("model-")]
    return read_study(name, table, models, root / "results")


def column(columns: list[tables.Column], title: str) -> tables.Column:
    return next(column for column in columns if column.title == title)


def edit(path: Path, **changes: Any) -> None:
    write_json(path, read_json(path) | changes)


def test_rows_keep_the_studys_order_and_dense_has_sparsity_zero(project: Path) -> None:
    study = study_of(project, write_project(project))
    assert [row.method for row in study.rows] == ["dense", *(method for method, *_ in RUNS)]
    assert (study.rows[0].sparsity, study.rows[0].achieved, study.rows[0].run) == (0.0, 0.0, None)
    assert study.ppl_columns == ["wikipedia-512-w24", "essays-512"]


def test_labels_say_what_differs_and_nothing_else(project: Path) -> None:
    study = study_of(project, write_project(project))
    assert list(labels.labels(study.rows).values()) == [
        "dense",
        "magnitude 50 %",
        "wanda 50 % · site",
        "wanda 50 % · dense",
        "sparsegpt 30 % · site",
        "sparsegpt 50 % · site",
        "sparsegpt 2:4 · site",
    ]


def test_perplexity_cells_have_the_ratio_to_dense_and_the_windows(project: Path) -> None:
    study = study_of(project, write_project(project))
    found = column(tables.perplexity_columns(study), "wikipedia")
    assert found.note == "length 512, 24 of 118 windows"
    assert [cell.main for cell in found.cells] == ["18.07", "346.9", "64.81", "68.40", "21.30", "60.02", "172.5"]
    assert (found.cells[0].sub, found.cells[2].sub) == ("", f"{labels.TIMES}{64.81 / DENSE:.2f}")
    assert column(tables.perplexity_columns(study), "essays").note == "length 512, all 61 windows"


def test_best_is_among_rows_of_equal_sparsity_and_pattern_only(project: Path) -> None:
    study = study_of(project, write_project(project))
    found = column(tables.perplexity_columns(study), "wikipedia")
    # sparsegpt 50 %; neither dense, nor the only run at 30 %, nor the only 2:4
    assert [cell.best for cell in found.cells] == [False, False, False, False, False, True, False]


def test_equal_values_are_not_marked(project: Path) -> None:
    runs = [("wanda", "unstructured", 0.5, way, 60.0) for way in ("site", "dense")]
    study = study_of(project, write_project(project, runs=runs))
    assert not any(cell.best for column in tables.perplexity_columns(study) for cell in column.cells)


def test_accuracy_cells_and_headers_say_error_limit_and_rule(project: Path) -> None:
    study = study_of(project, write_project(project))
    columns = tables.zeroshot_columns(study)
    assert {column.group_note for column in columns} == {"olmo, first 25 items of each task"}
    assert (columns[0].cells[0].main, columns[0].cells[0].sub) == ("64.0 ±9.0", "60.0 ±10.0")
    assert column(columns, "boolq").cells[0].sub == ""
    assert {mean.note for mean in tables.mean_columns(study)} == {"3 of 7 tasks"}


def test_one_item_has_no_standard_error(project: Path) -> None:
    params = write_project(project)
    path = project / "results" / "zeroshot" / "smollm2--olmo-l25.json"
    score = {"acc": 1.0, "acc_stderr": None, "samples": 1}
    edit(path, tasks={"arc_easy": score, "boolq": score, "piqa": score})
    assert tables.zeroshot_columns(study_of(project, params))[0].cells[0].main == "100.0"
    report.run()
    assert "acc 100.00 % (1 items of validation)" in (project / "results" / "report.html").read_text(encoding="utf-8")


def test_sizes(project: Path) -> None:
    packed, stored = tables.size_columns(study_of(project, write_project(project)))
    assert [(cell.main, cell.sub) for cell in packed.cells[:2]] == [("212 MB", ""), ("119 MB", f"{labels.TIMES}0.56")]
    assert [stored.cells[number].main for number in (0, 1, 5)] == [labels.NOTHING, "13.2 MB", "119 MB"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(18.068, "18.07"), (346.93, "346.9"), (2140.55, "2,141"), (1.3e6, "1.3e+06"), (99.996, "100.00")],
)
def test_perplexities_are_written_with_about_four_digits(value: float, text: str) -> None:
    assert labels.perplexity(value) == text


@pytest.mark.parametrize(("low", "high"), [(16.0, 380.0), (5.1, 5.6), (20.0, 26.0), (5.0, 2.0e6)])
def test_log_axes_have_some_ticks_but_not_many(low: float, high: float) -> None:
    ticks = plots.log_ticks(low, high)
    assert 4 <= len(ticks) <= 14
    assert all(low <= tick <= high for tick in ticks)


# Published values ------------------------------------------------------------


def matched(root: Path, **changes: Any) -> dict[str, str]:
    """Subject -> published perplexity for OPT-125M on WikiText-2 at the papers' protocol, but for `changes`."""
    calibration = CALIBRATION | {"corpus": "c4", "samples": 128, "length": 2048} | changes.pop("calibration", {})
    runs = [("wanda", "unstructured", 0.5, changes.pop("propagation", "block"), 38.9)]
    params = write_project(
        root, model="opt", source=changes.pop("source", HUB), runs=runs, corpora={"wikitext2": None}, tasks=(),
        length=changes.pop("length", 2048), changes=changes.pop("run", {}), calibration=calibration,
    )  # fmt: skip
    params["download"] |= {"corpus-wikitext2": WIKITEXT | changes.pop("corpus", {}), "corpus-c4": C4}
    for path in (root / "results" / "ppl").iterdir():
        edit(path, split="test", **changes)
    study = study_of(root, params)
    return {reference.subject: reference.text for reference in published.references(study, params)}


def test_published_values_stand_beside_the_same_measurement(project: Path) -> None:
    assert matched(project) == {"opt": "27.66", "opt--wiki--wanda--50--block": "38.88"}


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "hf:facebook/opt-350m@main"},
        {"source": "file:opt-125m"},
        {"length": 1024},
        {"windows": 24},
        {"protocol": "B"},
        {"split": "validation"},
        {"corpus": {"config": "wikitext-103-raw-v1"}},
    ],
)
def test_no_published_value_beside_another_protocol(project: Path, changes: dict[str, Any]) -> None:
    split = changes.pop("split", None)
    if split:
        changes["corpus"] = {"source": "hf:other/wikitext"}
    assert matched(project, **changes) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"propagation": "site"},
        {"calibration": {"samples": 64}},
        {"calibration": {"length": 512}},
        {"calibration": {"corpus": "wikitext2"}},
        {"run": {"options": {"use_variant": True}}},
        {"run": {"update": "obs"}},
        {"run": {"allocation": "owl"}},
        {"run": {"refinement": "swaps"}},
        {"run": {"count": "exact"}},
    ],
)
def test_runs_made_in_another_way_have_no_published_value_but_dense_has(project: Path, changes: dict[str, Any]) -> None:
    assert matched(project, **changes) == {"opt": "27.66"}


def test_an_allocation_is_drawn_for_each_target(project: Path) -> None:
    assert layer_plots.allocation_plots(study_of(project, write_project(project))) == []
    found = layer_plots.allocation_plots(study_of(project, write_project(project, changes={"allocation": "owl-lam-0p04"})))
    assert len(found) == len({(pattern, sparsity) for _, pattern, sparsity, _, _ in RUNS})
    for drawn in found:
        (values,) = drawn.spec["datasets"].values() if "datasets" in drawn.spec else (drawn.spec["data"]["values"],)
        assert {value["allocation"] for value in values} == {"owl-lam-0p04"}
        assert [value["block"] for value in values] == [0, 1, 2]


def test_published_column_is_there_only_with_values(project: Path) -> None:
    params = write_project(project)
    study = study_of(project, params)
    assert published.references(study, params) == []
    assert published.notes(study, [], params) == ["No published number exists for smollm2."]
    assert not any("published" in column.title for column in tables.perplexity_columns(study, []))
    reference = published.Reference("smollm2", "ppl", "essays-512", "23.5", "Paper", "")
    found = [column.title for column in tables.perplexity_columns(study, [reference])]
    assert found == ["wikipedia", "essays", "published"]


def test_every_published_source_has_a_protocol_and_every_model_a_row() -> None:
    with measured.PUBLISHED.open(encoding="utf-8", newline="") as file:
        facts = list(csv.DictReader(file))
    assert {fact["source"] for fact in facts} == set(measured.PROTOCOLS)
    assert {name for names in measured.MODELS.values() for name in names} <= {fact["model"] for fact in facts}


# Files and errors ------------------------------------------------------------


def test_same_results_same_bytes(project: Path) -> None:
    write_project(project)
    names = ["report.html", "report.csv", "plots/perplexity.csv", "plots/layers.csv"]
    written = []
    for _ in range(2):
        report.run()
        written.append([(project / "results" / name).read_bytes() for name in names])
    assert written[0] == written[1]


def test_csv_files(project: Path) -> None:
    write_project(project, blocks=2)
    report.run()
    with (project / "results" / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert rows[2]["subject"] == "smollm2--wiki--wanda--50--site"
    assert float(rows[2]["ppl/wikipedia-512-w24"]) == 64.81
    assert (rows[0]["sparsity"], rows[0]["bytes_packed"], rows[0]["bytes_dense"]) == ("0.0", "", "212000000")
    lines = (project / "results" / "plots" / "layers.csv").read_text(encoding="utf-8").splitlines()
    assert (lines[0], len(lines)) == ("run,block,layer,sparsity", 1 + 6 * 2 * 6)
    lines = (project / "results" / "plots" / "perplexity.csv").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["subject,method,sparsity,corpus,perplexity", "smollm2,dense,0.0,wikipedia-512-w24,18.07"]


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("ppl/smollm2--essays-512.json", "eval-ppl@smollm2--essays-512"),
        ("zeroshot/smollm2--olmo-l25.json", "eval-zeroshot@smollm2--olmo-l25"),
        ("sparsity/smollm2--magnitude--50.json", "prune@smollm2--magnitude--50"),
    ],
)
def test_a_missing_result_names_the_stage_that_makes_it(project: Path, file: str, stage: str) -> None:
    write_project(project)
    (project / "results" / file).unlink()
    with pytest.raises(UserError, match=f"dvc repro {stage}"):
        report.run()


def test_a_result_of_other_masks_is_refused(project: Path) -> None:
    write_project(project)
    path = project / "results" / "ppl" / "smollm2--magnitude--50--essays-512.json"
    edit(path, provenance={"model": hashed("smollm2"), "masks": hashed("older")})
    with pytest.raises(UserError, match=r"measured with masks .*dvc repro eval-ppl@smollm2--magnitude--50--essays-512"):
        report.run()


def test_a_broken_result_names_file_and_field(project: Path) -> None:
    write_project(project)
    edit(project / "results" / "ppl" / "smollm2--essays-512.json", perplexity="much")
    with pytest.raises(UserError, match=r"smollm2--essays-512\.json is not a result of eval-ppl: perplexity"):
        report.run()


def test_text_is_escaped_and_nothing_is_loaded(project: Path) -> None:
    write_project(project, title="<script>alert(1)</script> & more", corpora={"</script><b>x": 24})
    report.run()
    page = (project / "results" / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "</script><b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in page
    markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
    assert not re.search(r"\bsrc=|<link|<a [^>]*href=\"[^#]|@import|url\(", markup)


def test_sections_without_metrics_are_absent(project: Path) -> None:
    write_project(project, tasks=(), corpora={})
    report.run()
    page = (project / "results" / "report.html").read_text(encoding="utf-8")
    for words in ("Zero-shot accuracy", "Perplexity against sparsity", "Mean accuracy", "lower is better"):
        assert words not in page
    assert "Sparsity of each layer" in page


BEGIN, END = readme.markers("smoke")


def test_readme_is_rewritten_between_its_markers_only(project: Path) -> None:
    write_project(project)
    others = "<!-- field:begin -->\nof a study that is not selected\n<!-- field:end -->\n"
    text = f"# before\n{BEGIN}\nstale words\n{END}\nafter\n{others}"
    (project / "README.md").write_text(text, encoding="utf-8")
    readme.run()
    first = (project / "README.md").read_text(encoding="utf-8")
    image = (project / readme.plot("smoke")).read_bytes()
    readme.run()
    assert first == (project / "README.md").read_text(encoding="utf-8")
    assert image == (project / readme.plot("smoke")).read_bytes()
    assert first.startswith("# before\n")
    assert first.endswith(f"{END}\nafter\n{others}")
    assert "stale words" not in first
    assert f"| sparsegpt | unstructured | 50.01 | site | **60.02** ({labels.TIMES}3.32) |" in first
    assert image.startswith(b"<svg")


@pytest.mark.parametrize("text", ["# no markers\n", f"{END} {BEGIN}", BEGIN, "<!-- other:begin --><!-- other:end -->"])
def test_readme_without_markers_is_refused(project: Path, text: str) -> None:
    write_project(project)
    (project / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="has no results of smoke; put <!-- smoke:begin -->"):
        readme.run()
    assert (project / "README.md").read_text(encoding="utf-8") == text


# In a browser ------------------------------------------------------------

MARKS = re.compile(r'<g class="mark-(?:symbol|rect|rule|line) role-mark[^>]*>\s*<(?:path|line)')


def faults(page: Path, scratch: Path) -> list[str]:
    """What is wrong with a page once its scripts have run: lines on the console, and plots without marks."""
    done = visit(page.as_uri(), scratch, "--dump-dom")
    found = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    for plot in re.findall(r'<script [^>]*data-plot="([^"]+)"', done.stdout):
        drawn = done.stdout.partition(f'id="{plot}"')[2].partition("<script")[0]
        if "<svg" not in drawn or not MARKS.search(drawn):
            found.append(f"{plot} has no marks")
    return found


def test_page_draws_every_plot_in_a_browser_without_a_word_on_the_console(project: Path) -> None:
    params = write_project(project, title="What <pruning> costs", blocks=4)
    for key, choices in (("sparsegpt--50", kl_choices(["UUU", "NNN", "UNU", "UUN"])), ("wanda--50", outlier_choices("qkvv"))):
        edit(project / "results" / "sparsity" / f"smollm2--wiki--{key}--site.json", choices=choices)
    report.run()
    page = project / "results" / "report.html"
    assert len(re.findall("<script [^>]*data-plot=", page.read_text(encoding="utf-8"))) == 2 + 3 + len(RUNS) + (3 + 1) + 1
    assert faults(page, project) == []
    assert yaml.safe_load((project / "params.yaml").read_text(encoding="utf-8")) == params


def test_the_browser_test_sees_broken_pages(project: Path) -> None:
    write_project(project, blocks=2)
    report.run()
    page = (project / "results" / "report.html").read_text(encoding="utf-8")
    broken = project / "broken.html"

    marks = page.replace('"type": "rect"', '"type": "nonsense"', 1)
    assert marks != page
    broken.write_text(marks, encoding="utf-8")
    found = faults(broken, project)
    assert any("CONSOLE" in line for line in found)
    assert "plot-smoke-layers-0 has no marks" in found

    emptied = re.sub(r'("name": "data-\w+"|"values": \[)[^\]]*"block": 0[^\]]*\]', r"\1]", page, count=1)
    assert emptied != page
    broken.write_text(emptied, encoding="utf-8")
    assert any("has no marks" in line for line in faults(broken, project))
