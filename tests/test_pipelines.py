"""Studies expand into tables: what the rows are, that expanding is pure, and the commands."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipelines import select
from pipelines.__main__ import app
from pipelines.estimate import TASKS as ESTIMATED_TASKS
from pipelines.estimate import Sizes, estimate, human
from pipelines.expand import expand
from pipelines.schema import PRUNER, parse
from pipelines.study import TASKS, Catalogue, Study, known_configs, read_catalogue, study_files
from pipelines.tables import Tables
from secateur.errors import UserError
from secateur.evaluation.zeroshot import TASKS as EVALUATED_TASKS
from stages._tasks import TASKS as DOWNLOADED_TASKS

KEY = re.compile(r"[a-z0-9]+(-{1,2}[a-z0-9]+)*")
TABLES = ("download", "stats", "runs", "finetunes", "ppl", "zeroshot")
CALIBRATION = {"corpus": "wikipedia", "samples": 4, "length": 32}
BASE: dict[str, Any] = {"title": "t", "models": ["smollm2"], "calibrations": {"wiki": CALIBRATION}}
CATALOGUE = read_catalogue()


def tables(*studies: dict[str, Any]) -> Tables:
    """Expand studies named a, b, ..."""
    return expand({"abc"[i]: parse(Study, {**BASE, **study}, "abc"[i]) for i, study in enumerate(studies)}, CATALOGUE)


def run(**axes: Any) -> dict[str, Any]:
    return {"runs": [{"method": "wanda", "sparsity": 0.5, **axes}]}


def test_every_study_is_valid_and_expands() -> None:
    names = list(study_files())
    assert {"smoke", "smoke-wide", "mirror-check"} <= set(names)
    for name in names:
        assert select.tables_of([name]).runs


def test_all_studies_fit_together() -> None:
    merged = select.tables_of(["smoke", "smoke-wide", "mirror-check"])
    for name in ("smoke", "smoke-wide", "mirror-check"):
        alone = select.tables_of([name])
        for table in TABLES:
            assert getattr(alone, table).items() <= getattr(merged, table).items()


def test_smoke_is_the_default_study() -> None:
    smoke = select.tables_of(["smoke"])
    assert list(smoke.runs) == [
        "smollm2--magnitude--50",
        "smollm2--wiki--wanda--50--site",
        "smollm2--wiki--wanda--50--dense",
        "smollm2--wiki--sparsegpt--30--site",
        "smollm2--wiki--sparsegpt--50--site",
        "smollm2--wiki--sparsegpt--2of4--site",
    ]
    assert list(smoke.stats) == [
        f"smollm2--{name}" for name in ("wiki--tokens", "blocks--tokens", "unseen--tokens", "wiki--moments")
    ]
    assert smoke.runs["smollm2--magnitude--50"].source == "models/smollm2"
    assert smoke.runs["smollm2--wiki--wanda--50--site"].source == "stats/smollm2--wiki--tokens"
    assert smoke.runs["smollm2--wiki--wanda--50--dense"].source == "stats/smollm2--wiki--moments"
    tuned = [f"smollm2--wiki--wanda--50--site--short--{mode}" for mode in ("unmerged", "masked-merge")]
    assert list(smoke.report.studies["smoke"].tuned) == tuned
    assert sorted(smoke.report.studies["smoke"].subjects) == sorted(["smollm2", *smoke.runs, *tuned])
    assert len(smoke.ppl) == len(smoke.zeroshot) == 9
    assert all(row.source.startswith("pypi:") for row in smoke.download.values())
    assert select.PARAMS.read_text(encoding="utf-8").count("&") == 0, "anchors are hard to read"


@pytest.mark.parametrize(
    ("axes", "key"),
    [
        ({}, "smollm2--wiki--wanda--50--site"),
        ({"sparsity": 0.625}, "smollm2--wiki--wanda--62p5--site"),
        ({"sparsity": None, "pattern": "3:4"}, "smollm2--wiki--wanda--3of4--site"),
        ({"method": {"name": "wanda", "use_variant": True}}, "smollm2--wiki--wanda-use-variant--50--site"),
        ({"method": {"name": "wanda", "use_variant": False}}, "smollm2--wiki--wanda--50--site"),
        ({"method": {"name": "sparsegpt", "percdamp": 0.1}}, "smollm2--wiki--sparsegpt-percdamp-0p1--50--site"),
        ({"method": {"name": "magnitude", "group": "row"}}, "smollm2--magnitude-group-row--50"),
        ({"method": "magnitude", "count": "exact"}, "smollm2--magnitude--50--exact"),
        ({"method": "magnitude", "update": "obs"}, "smollm2--wiki--magnitude--50--obs--site"),
        ({"method": "magnitude", "allocation": "owl"}, "smollm2--wiki--magnitude--50--owl"),
        ({"method": "magnitude", "allocation": "alpha"}, "smollm2--magnitude--50--alpha"),
        ({"method": "pruner_zero"}, "smollm2--wiki--pruner-zero--50"),
        ({"method": "pruner_zero", "gradients": "wiki"}, "smollm2--pruner-zero--50--wiki-gradients"),
        ({"update": {"name": "reconstruct", "epochs": 1}}, "smollm2--wiki--wanda--50--reconstruct-epochs-1--site"),
        ({"allocation": [0.4, 0.6], "propagation": "block"}, "smollm2--wiki--wanda--50--table-ea78c1bf--block"),
    ],
)
def test_the_key_says_what_the_run_is(axes: dict[str, Any], key: str) -> None:
    assert list(tables(run(**axes)).runs) == [key]


def test_the_file_of_an_option_is_watched(tmp_path: Path) -> None:
    tree = tmp_path / "tree.json"
    tree.write_text('{"data": "W"}')
    found = tables(run(method=["wanda", {"name": "formula", "file": str(tree)}]))
    assert [row.watch for row in found.runs.values()] == [PRUNER, str(tree)]


def test_a_run_without_data_has_neither_calibration_nor_propagation() -> None:
    found = tables({**run(method="magnitude", propagation=["site", "block", "dense"]), "calibrations": {}})
    assert list(found.runs) == ["smollm2--magnitude--50"]
    assert not found.stats


def test_dense_runs_share_the_join_of_their_bundles_over_all_studies() -> None:
    wanda, sparsegpt = run(propagation="dense"), run(method="sparsegpt", propagation="dense")
    assert list(tables(wanda).stats) == ["smollm2--wiki--moments"]
    both = tables(wanda, sparsegpt)
    assert list(both.stats) == ["smollm2--wiki--gram"]
    assert {row.source for row in both.runs.values()} == {"stats/smollm2--wiki--gram"}
    stated = {"calibrations": {"wiki": {**CALIBRATION, "bundle": "gram"}}}
    assert list(tables({**wanda, **stated}).stats) == ["smollm2--wiki--gram"]
    assert list(tables({**run(), **stated}).stats) == ["smollm2--wiki--tokens"]


def test_evaluations_are_subjects_times_entries_and_their_keys_name_what_differs() -> None:
    text = {"corpus": "wikitext2", "length": 128}
    found = tables(
        {
            **run(),
            "perplexity": [
                {**text, "split": "test"},
                {**text, "split": "validation", "windows": 3},
                {**text, "split": "test", "windows": 3, "protocol": "B"},
            ],
            "zeroshot": [{"data": "olmo"}, {"data": "olmo", "tasks": ["rte", "boolq"], "limit": 5}],
        }
    )
    endings = ["wikitext2-128", "wikitext2-validation-128-w3", "wikitext2-128-w3-b"]
    subjects = ["smollm2", "smollm2--wiki--wanda--50--site"]
    assert list(found.ppl) == [f"{subject}--{ending}" for ending in endings for subject in subjects]
    assert list(found.zeroshot) == [f"{subject}--{e}" for e in ("olmo", "olmo-boolq-rte-l5") for subject in subjects]
    assert found.zeroshot["smollm2--olmo"].tasks == sorted(TASKS)
    assert found.ppl["smollm2--wiki--wanda--50--site--wikitext2-128"].source == "pruned/smollm2--wiki--wanda--50--site"


def test_a_key_with_two_meanings_is_an_error_that_names_both_studies() -> None:
    other = {**run(), "calibrations": {"wiki": {**CALIBRATION, "samples": 5}}}
    with pytest.raises(UserError, match=r"stats.smollm2--wiki--tokens: a has samples 4 and b has 5"):
        tables(run(), other)
    with pytest.raises(UserError, match=r"compute: a has .*'threads': 2.* and b has .*'threads': 1"):
        tables(run(), {**run(), "compute": {"threads": 1}})


def test_a_study_brings_its_own_assets() -> None:
    own = {"models": {"mine": {"source": "file:../mine"}}, "corpora": {"text": {"source": "file:a.txt", "reader": "text"}}}
    found = tables({**run(), "models": ["mine"], "assets": own, "calibrations": {"t": {**CALIBRATION, "corpus": "text"}}})
    assert list(found.download) == ["model-mine", "corpus-text"]
    with pytest.raises(UserError, match=r"assets.models.gpt2: .* has another 'gpt2'"):
        tables({**run(), "assets": {"models": {"gpt2": {"source": "file:../mine"}}}})


def tuned(run: dict[str, Any] | None = None, **recipe: Any) -> dict[str, Any]:
    """A study whose runs are fine-tuned by `recipe`, under the name `ft`."""
    calibrations = {name: {**CALIBRATION, "sampler": "packed"} for name in ("blocks", "unseen")}
    chosen = {"recipe": "wanda", "data": "blocks", "validation": "unseen", **recipe}
    point = {"method": "wanda", "sparsity": 0.5, "calibration": "wiki", "finetune": "ft", **(run or {})}
    return {"calibrations": {"wiki": CALIBRATION, **calibrations}, "finetunes": {"ft": chosen}, "runs": [point]}


def test_modes_share_a_training_where_they_can_and_each_is_a_subject() -> None:
    perplexity = [{"corpus": "wikipedia", "split": "heldout", "length": 32}]
    modes = ["unmerged", "masked_merge", "masked_training"]
    found = tables({**tuned(modes=modes, rate=0.001), "perplexity": perplexity})
    run = "smollm2--wiki--wanda--50--site"
    assert list(found.finetunes) == [f"{run}--ft--lora", f"{run}--ft--masked-lora"]
    row = found.finetunes[f"{run}--ft--lora"]
    assert (row.source, row.data, row.validation) == (
        f"pruned/{run}",
        "stats/smollm2--blocks--tokens",
        "stats/smollm2--unseen--tokens",
    )
    assert (row.recipe, row.training, row.options) == ("wanda", "lora", {"rate": 0.001})
    merged = found.ppl[f"{run}--ft--masked-merge--wikipedia-32"]
    assert (merged.source, merged.adapter, merged.mode) == (f"pruned/{run}", f"adapters/{run}--ft--lora", "masked_merge")
    plain = found.ppl[f"{run}--wikipedia-32"]
    assert (plain.source, plain.adapter, plain.mode) == (f"pruned/{run}", f"pruned/{run}", None)
    assert len(found.ppl) == 5


def test_a_fine_tuning_without_held_out_text_watches_its_run_instead() -> None:
    (row,) = tables(tuned(validation=None)).finetunes.values()
    assert row.validation == row.source


def test_options_of_a_recipe_that_are_lists_survive_yaml() -> None:
    found = tables(tuned(recipe="dense_ft", modes="dense", targets=["q_proj", "down_proj"]))
    assert next(iter(found.finetunes.values())).options == {"targets": ["q_proj", "down_proj"]}
    assert parse(Tables, yaml.safe_load(select.render(found)), "params.yaml") == found
    (plain,) = tables(tuned(targets=["q_proj", "v_proj"])).finetunes.values()
    assert plain.options == {}, "the recipe's own targets, written out"


AXES = {
    "method": st.sampled_from(["magnitude", "wanda", {"name": "sparsegpt", "percdamp": 0.05}]),
    "sparsity": st.sampled_from([0.0, 0.125, 0.3, 0.5, 0.999]),
    "propagation": st.sampled_from(["site", "block", "dense"]),
    "count": st.sampled_from(["reference", "exact"]),
    "update": st.sampled_from(["none"]),
}


@settings(deadline=None, max_examples=40)
@given(st.fixed_dictionaries({name: st.lists(axis, min_size=1, max_size=3) for name, axis in AXES.items()}))
def test_expanding_is_pure_and_survives_yaml(axes: dict[str, Any]) -> None:
    found = tables(run(**axes))
    assert select.render(found) == select.render(tables(run(**axes)))
    assert parse(Tables, yaml.safe_load(select.render(found)), "params.yaml") == found
    assert all(KEY.fullmatch(key) for table in TABLES for key in getattr(found, table))
    backwards = tables(run(**{name: values[::-1] for name, values in axes.items()}))
    assert backwards.runs == found.runs, "the order of a grid changes the order of rows, not the rows"
    points = {(str(m), s, c, p if m != "magnitude" else None) for m in axes["method"] for s in axes["sparsity"]
              for c in axes["count"] for p in axes["propagation"]}  # fmt: skip
    assert len(found.runs) == len(points)


def test_the_same_tasks_are_known_everywhere() -> None:
    assert set(TASKS) == set(ESTIMATED_TASKS) == set(DOWNLOADED_TASKS) == set(EVALUATED_TASKS)


def test_estimates_follow_from_the_sizes() -> None:
    config = {"model_type": "opt", "hidden_size": 8, "ffn_dim": 32, "num_hidden_layers": 2, "vocab_size": 10}
    size = Sizes.of({**config, "max_position_embeddings": 64, "dtype": "float16"})
    assert size.linear == 2 * (4 * 8 * 8 + 2 * 8 * 32)
    assert size.gram(3) == 2 * 3 * (3 * 8 * 9 + 32 * 33)
    study = run(method=["wanda", "sparsegpt"], propagation=["site", "block", "dense"])
    costs = {cost.key: cost for cost in estimate(tables(study), known_configs(CATALOGUE))}
    model, tokens = Sizes.of(CATALOGUE.models["smollm2"].config), 4 * 32
    block, site = (costs[f"smollm2--wiki--wanda--50--{way}"] for way in ("block", "site"))
    assert (block.operations, site.operations) == (4 * tokens * model.linear, 2 * tokens * model.linear)
    assert costs["smollm2--wiki--wanda--50--dense"].operations == 0
    assert site.bytes == model.linear / 8
    assert costs["smollm2--wiki--sparsegpt--50--dense"].bytes == model.linear / 8 + model.linear / 2 * 4
    dense = next(c for c in estimate(tables(tuned(recipe="dense_ft", modes="dense", epochs=3, batch=4)), known_configs(CATALOGUE))
                 if c.stage == "lora-finetune")  # fmt: skip
    looks = 2 + 3 * 4 / 4 / 50
    assert dense.operations == pytest.approx((3 * tokens * 6 + looks * tokens * 2) * (model.linear + model.head))
    assert dense.bytes == model.linear / 2 * 4
    assert [human(value, "B") for value in (None, 0, 999, 1500, 2.5e12)] == ["?", "-", "999 B", "1.5 kB", "2.5 TB"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the studies and nothing else, as the current directory."""
    shutil.copytree("pipelines", tmp_path / "pipelines", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def test_use_show_check(project: Path) -> None:
    for name in ("smollm2--magnitude--50", "smollm2--magnitude--70"):
        path = project / "results/sparsity" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    assert "removed 1 result" in command("use", "smoke")
    assert [path.stem for path in (project / "results/sparsity").iterdir()] == ["smollm2--magnitude--50"]
    assert "up to date" in command("check")
    shown = command("show")
    assert "prune@smollm2--wiki--sparsegpt--2of4--site" in shown and "33 stages" in shown
    (project / "my.yaml").write_text((project / "pipelines/smoke.yaml").read_text().replace("samples: 16", "samples: 8"))
    assert "stats.smollm2--wiki--tokens: smoke has samples 16 and my has 8" in command("use", "smoke", "my.yaml", code=2)
    command("use", "my.yaml")
    assert select.selected() == ["my.yaml"]
    assert "up to date" in command("check")
    with (project / "params.yaml").open("a") as file:
        file.write("# edited\n")
    assert "out of date; run `python -m pipelines use my.yaml`" in command("check", code=1)


def test_check_names_every_bad_study(project: Path) -> None:
    command("use", "smoke")
    (project / "pipelines/deeper").mkdir()
    (project / "pipelines/deeper/broken.yaml").write_text("title: t\nmodels: [smollm]\n")
    assert "broken: models: unknown model 'smollm'; did you mean smollm2?" in command("check", code=1)


def test_names_and_paths_of_studies(project: Path) -> None:
    assert "unknown study 'smok'; did you mean smoke" in command("use", "smok", code=2)
    assert "nowhere.yaml does not exist" in command("use", "nowhere.yaml", code=2)
    study = {**BASE, "assets": {"models": {"mine": {"source": "file:mine"}}}, "models": ["mine"]}
    (project / "own.yaml").write_text(yaml.safe_dump(study))
    assert "own: assets.models.mine.source: file:mine: there is no such file" in command("use", "own.yaml", code=2)
    (project / "mine").mkdir()
    assert "note: the sizes of mine are not known yet" in command("use", str(project / "own.yaml"))
    assert select.selected() == ["own.yaml"]
    (project / "params.yaml").unlink()
    assert "run `python -m pipelines use smoke`" in command("show", code=2)
    command("use", "pipelines/smoke.yaml")
    assert select.selected() == ["smoke"]


def test_params_yaml_is_up_to_date() -> None:
    assert select.is_up_to_date(), "run `python -m pipelines use " + " ".join(select.selected()) + "`"


def test_help_is_fast_because_torch_stays_out() -> None:
    probe = "import sys, pipelines.__main__; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_downloaded_config_wins_over_the_catalogue(project: Path) -> None:
    (project / "artifacts/models/gpt2").mkdir(parents=True)
    (project / "artifacts/models/gpt2/config.json").write_text('{"model_type": "gpt2", "n_positions": 7}')
    (project / "mine").mkdir()
    (project / "mine/config.json").write_text('{"model_type": "opt"}')
    catalogue = Catalogue.model_validate({"models": {"mine": {"source": "file:mine"}, "far": {"source": "hf:a/b"}}})
    assert known_configs(CATALOGUE)["gpt2"]["n_positions"] == 7
    assert known_configs(catalogue) == {"mine": {"model_type": "opt"}}
