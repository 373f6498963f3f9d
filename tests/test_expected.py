"""A study of a published table knows the value that each of its rows should find."""

import pytest

from pipelines import select
from pipelines.expected import expected
from pipelines.published import NO_UPDATE, facts
from secateur.evaluation.zeroshot import MEANS
from secateur.methods.d2prune import PRESETS, D2Prune


@pytest.mark.parametrize(
    ("study", "source", "stage", "value"),
    [
        ("d2prune", "D2Prune-README", "eval-ppl@llama-2-7b--c4-4096--d2prune-no-update-v--60--block--wikitext2-4096", "9.05"),
        ("dlp", "DLP-README", "eval-ppl@llama-2-7b--c4--wanda--70--block--wikitext2-2048", "76.84"),
    ],
)
def test_every_published_perplexity_has_its_row(study: str, source: str, stage: str, value: str) -> None:
    tables = select.tables_of([study])
    found = expected(tables, MEANS)
    assert found[stage] == value
    measured = [fact for fact in facts() if fact["source"] == source and fact["metric"] == "ppl"]
    assert sum(name.startswith("eval-ppl@") for name in found) == len({tuple(fact.values()) for fact in measured})


def test_a_study_measured_in_another_way_expects_nothing() -> None:
    assert expected(select.tables_of(["smoke"]), MEANS) == {}


def test_what_d2prune_leaves_without_an_update_is_the_same_here_and_there() -> None:
    published = {fact["model"] for fact in facts() if fact["method"] == "D2Prune"}
    assert {model.lower(): NO_UPDATE.get(model, D2Prune().no_update) for model in published}.items() <= PRESETS.items()


def test_a_fine_tuned_subject_expects_neither_the_value_of_its_run_nor_the_dense_one() -> None:
    tables = select.tables_of(["wanda"])
    (name, *_) = [name for name in expected(tables, MEANS) if name.startswith("eval-ppl@")]
    key = name.partition("@")[2]
    tables.ppl[key] = tables.ppl[key].model_copy(update={"mode": "unmerged"})
    assert name not in expected(tables, MEANS)
