"""The report on runs that decide block by block which of q, k and v stay without an update: what is drawn, and when."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from secateur.artifacts import read_json, write_json
from secateur.errors import UserError
from stages import report
from stages.reporting.choice_plots import FORMS, HEIGHT, LETTERS, LINES, choice_plots
from stages.reporting.plots import Plot
from stages.reporting.results import Study, read_study
from tests.report_data import kl_choices, outlier_choices, write_project

HEADING = "Queries, keys and values without an update"
WIDTH = 400
STATES = ["UUU", "NUU", "UNU", "UUN", "NUN", "NNN"]
SHAPE = re.compile(r'aria-label="([^"]*)" role="graphics-symbol" aria-roledescription="(?:rect mark|point)" ([^>]*)/>')
PLACE = re.compile(r'(?:transform="translate\(|d="M)([\d.]+),([\d.]+)')


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(root: Path, *choices: Mapping[str, Any] | None, blocks: int = len(STATES)) -> Study:
    """A study with one run for each of `choices`."""
    runs = [("d2prune", "unstructured", (10 + number) / 100, "site", 30.0 + number) for number in range(len(choices))]
    tables = write_project(root, runs=runs, blocks=blocks, tasks=())["report"]["studies"]["smoke"]
    for key, found in zip(tables["runs"], choices, strict=True):
        path = root / "results" / "sparsity" / f"{key}.json"
        write_json(path, read_json(path) | ({"choices": found} if found is not None else {}))
    return read_study("smoke", tables, ["smollm2"], root / "results")


def shapes(plot: Plot) -> list[tuple[float, float, str, str]]:
    """x, y, colour and label of everything that a plot draws, in the order in which it is drawn."""
    svg = vl_convert.vegalite_to_svg(plot.spec | {"width": WIDTH})
    found = []
    for label, attributes in SHAPE.findall(svg):
        place, colour = PLACE.search(attributes), re.search(r'fill="([^"]+)"', attributes)
        assert place and colour, attributes
        found.append((float(place[1]), float(place[2]), colour[1], label))
    assert found, svg
    return found


def still(plot: Plot) -> list[str]:
    """The letters whose cells a map draws as not updated, for each column of cells from the left."""
    cells = shapes(plot)
    columns, rows = (sorted({cell[axis] for cell in cells}) for axis in (0, 1))
    assert (len(rows), len(cells)) == (len(LETTERS), len(columns) * len(rows))
    assert {colour for _, _, colour, _ in cells} <= set(FORMS.values())
    dark = {(x, y) for x, y, colour, _ in cells if colour == FORMS["not updated"]}
    return ["".join(letter for letter, y in zip(LETTERS, rows, strict=True) if (x, y) in dark) for x in columns]


def test_the_map_shows_the_letters_without_an_update_of_each_block(project: Path) -> None:
    ((chosen, *_), (judged,)) = choice_plots(write(project, kl_choices(STATES), outlier_choices("qkvvkq")))
    assert (chosen.title, judged.title) == ("d2prune 10 %", "d2prune 11 %")
    assert still(chosen) == ["", "q", "k", "v", "qv", "qkv"]
    assert still(judged) == [*"qkvvkq"]


@pytest.mark.parametrize("metric", ["weight", "score"])
def test_the_tooltip_of_an_outlier_map_has_the_shares(project: Path, metric: str) -> None:
    ((plot,),) = choice_plots(write(project, outlier_choices("kv", metric), blocks=2))
    told = {}
    for *_, label in shapes(plot):
        facts = dict(part.split(": ") for part in label.split("; "))
        told[facts["block"], facts["letter"]] = float(facts[f"{metric}s above their mean, %"])
    first = {("0", "q"): 31.0, ("0", "k"): 40.0, ("0", "v"): 33.0}
    assert told == first | {("1", "q"): 31.0, ("1", "k"): 32.0, ("1", "v"): 41.0}


@pytest.mark.parametrize(("place", "title", "measure"), [(1, "attention KL", "KL"), (2, "relative error", "L_rel")])
def test_the_lines_are_all_updated_and_the_choice(project: Path, place: int, title: str, measure: str) -> None:
    """Heights above the axis, which begins at zero, are in proportion to the numbers of the file."""
    choices = kl_choices(STATES)
    (plots,) = choice_plots(write(project, choices))
    assert (len(plots), plots[place].title) == (3, title)
    states = {"before": ["UUU"] * len(STATES), "after": STATES}
    points = shapes(plots[place])
    heights = {name: [HEIGHT - y for _, y, colour, _ in sorted(points) if colour == LINES[name]] for name in LINES}
    unit = heights["before"][0] / choices["block_000"]["states"]["UUU"][measure]
    for name, chosen in states.items():
        values = [choice["states"][state][measure] for choice, state in zip(choices.values(), chosen, strict=True)]
        assert heights[name] == pytest.approx([unit * value for value in values])
    assert [colour for *_, colour, _ in points] == [LINES[name] for name in LINES for _ in STATES], "the choice is on top"
    assert [layer["mark"]["type"] for layer in plots[place].spec["layer"]] == ["line", "point"]


def test_the_section_is_there_only_where_a_run_chose(project: Path) -> None:
    write(project, None)
    report.run()
    page = (project / "results" / "report.html").read_text(encoding="utf-8")
    assert HEADING not in page and 'id="plot-smoke-choices' not in page
    write(project, None, outlier_choices("qkvvkq"))
    report.run()
    page = (project / "results" / "report.html").read_text(encoding="utf-8")
    assert HEADING in page and "the lines compare" not in page
    assert re.findall(r'data-plot="plot-smoke-choices-(\d+)"', page) == ["0"]


def test_eight_runs_of_eighty_blocks(project: Path) -> None:
    states = [STATES[block % len(STATES)] for block in range(80)]
    study = write(project, *[kl_choices(states)] * 7, outlier_choices("qkvk" * 20), blocks=80)
    written = []
    for _ in range(2):
        report.run()
        written.append((project / "results" / "report.html").read_text(encoding="utf-8"))
    assert written[0] == written[1]
    assert re.findall(r'data-plot="plot-smoke-choices-(\d+)"', written[0]) == [str(number) for number in range(7 * 3 + 1)]
    assert "the lines compare" in written[0]
    plots = choice_plots(study)
    assert still(plots[6][0]) == ["".join(z for z, form in zip(LETTERS, state, strict=True) if form == "N") for state in states]
    encoding = plots[6][1].spec["layer"][0]["encoding"]
    assert encoding["x"]["axis"]["values"] == list(range(0, 80, 10))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dynamic": "dice"}, "'dice'"),
        ({"state": "UUX"}, "kl.state: String should match pattern"),
        ({"states": {}, "state": "UUU"}, "no numbers for the state 'UUU'"),
        ({"no_update": "q"}, "state 'UNU' leaves k without an update, not q"),
    ],
)
def test_choices_that_cannot_be_drawn_are_refused(project: Path, changes: dict[str, Any], message: str) -> None:
    choices = kl_choices(["UUU", "UNU"])
    choices["block_001"] |= changes
    with pytest.raises(UserError, match=rf"10--site\.json is not a result of prune: choices\.block_001.*{message}"):
        write(project, choices)
