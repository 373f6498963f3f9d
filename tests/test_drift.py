"""Two states compared without running anything: what counts as drift, bit for bit and within tolerances."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from dvc.repo import Repo
from hypothesis import given
from hypothesis import strategies as st

from flows.drift import Difference, State, Verdict, differences, read_state, summary, table
from flows.drift.leaves import entries, flat
from flows.drift.masks import Agreement, agreement
from flows.drift.state import Stage, md5_of
from flows.drift.tolerances import TOLERANCES, tolerance_of, within
from secateur.errors import UserError
from secateur.masks import PrunedLinear, PrunedStore

RUN, RESULT = "artifacts/pruned/run", "results/ppl/run.json"
HASHES = {"masks": "0" * 64, "model": "1" * 64}
FIGURES: dict[str, Any] = {"perplexity": 40.0, "mean_nll": 3.7, "tokens": 100, "provenance": HASHES}
SPARSITY = {"achieved": 0.5, "bytes": {"values": 0}, "pruned": 50}


def state(figures: Any = FIGURES, seed: int = 0, masks: str = "a" * 32 + ".dir", code: str = "b" * 32, values: int = 0) -> State:
    """A pruning and its perplexity, sealed."""
    sparsity = json.dumps(SPARSITY | {"bytes": {"values": values}}).encode()
    files = {RESULT: json.dumps(figures).encode(), "results/sparsity/run.json": sparsity}
    outputs = {RUN: masks, "results/sparsity/run.json": md5_of(sparsity)}
    prune = Stage("prune run", {"secateur/engine.py": code}, {"runs.run.seed": seed}, outputs)
    evaluate = Stage("ppl run", {RUN: masks}, {}, {RESULT: md5_of(files[RESULT])})
    return State({"prune@run": prune, "eval-ppl@run": evaluate}, files)


def found(before: State, after: State, exact: bool = False) -> list[tuple[str, str, Verdict]]:
    return [(row.stage, row.what, row.verdict) for row in differences(before, after, exact)]


@pytest.mark.parametrize("exact", [True, False])
def test_a_state_is_itself(exact: bool) -> None:
    assert differences(state(), state(), exact) == []
    assert summary(state(), []) == "2 stages, 3 outputs: all equal, bit for bit"
    assert table([]) == ""


@pytest.mark.parametrize("exact", [True, False])
def test_inputs_are_equal_everywhere(exact: bool) -> None:
    assert found(state(), state(seed=1), exact) == [("prune@run", "parameter runs.run.seed", Verdict.DIFFERS)]
    assert found(state(), state(code="c" * 32), exact) == [("prune@run", "input secateur/engine.py", Verdict.DIFFERS)]
    other = replace(state(), stages={**state().stages, "download@x": Stage("get", {}, {}, {"artifacts/x": "1" * 32})})
    newer = replace(state(), stages={**state().stages, "download@x": Stage("get", {}, {}, {"artifacts/x": "2" * 32})})
    assert found(other, newer, exact) == [("download@x", "artifacts/x", Verdict.DIFFERS)]


def test_masks_that_changed_are_said_once_and_not_at_their_readers() -> None:
    assert found(state(), state(masks="d" * 32 + ".dir"), exact=True) == [("prune@run", RUN, Verdict.DIFFERS)]
    assert found(state(), state(masks="d" * 32 + ".dir")) == [("prune@run", RUN, Verdict.UNSEEN)]


def test_a_stage_that_is_missing_or_new() -> None:
    assert found(state(), state().only(["prune@run"])) == [("eval-ppl@run", "the stage", Verdict.MISSING)]
    assert found(state().only(["prune@run"]), state()) == [("eval-ppl@run", "the stage", Verdict.NEW)]


@pytest.mark.parametrize("exact", [True, False])
def test_a_file_that_is_not_the_recorded_one(exact: bool) -> None:
    spaced = replace(state(), files={**state().files, RESULT: json.dumps(FIGURES, indent=1).encode()})
    assert ("eval-ppl@run", RESULT, Verdict.UNSEALED) in found(spaced, state(), exact)
    broken = replace(state(), files={**state().files, RESULT: b'{"perplexity": 0'})
    assert {row[2] for row in found(broken, state(), exact)} == {Verdict.UNSEALED, Verdict.DIFFERS}
    absent = replace(state(), files={})
    assert ("eval-ppl@run", RESULT, Verdict.UNSEALED) in found(absent, state(), exact)


def test_an_input_that_was_made_anew_after_it_was_read() -> None:
    stale = state()
    evaluate = replace(stale.stages["eval-ppl@run"], inputs={RUN: "e" * 32 + ".dir"})
    stale = replace(stale, stages={**stale.stages, "eval-ppl@run": evaluate})
    assert ("eval-ppl@run", RUN, Verdict.UNSEALED) in found(stale, state())


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"perplexity": 40.04}, Verdict.WITHIN),
        ({"perplexity": 42.0}, Verdict.BEYOND),
        ({"perplexity": None}, Verdict.BEYOND),
        ({"tokens": 101}, Verdict.DIFFERS),
        ({"provenance": HASHES | {"masks": "2" * 64}}, Verdict.UNSEEN),
        ({"provenance": HASHES | {"model": "2" * 64}}, Verdict.DIFFERS),
    ],
)
def test_another_machine(change: dict[str, Any], verdict: Verdict) -> None:
    (row,) = differences(state(), state(FIGURES | change), exact=False)
    assert row.verdict is verdict
    assert row.drift == (verdict not in (Verdict.WITHIN, Verdict.UNSEEN))
    assert [row.verdict for row in differences(state(), state(FIGURES | change), exact=True)] == [Verdict.DIFFERS]


def test_runs_that_move_weights_may_move_further() -> None:
    moved = FIGURES | {"perplexity": 41.5}
    assert found(state(), state(moved)) == [("eval-ppl@run", f"{RESULT}: perplexity", Verdict.BEYOND)]
    assert found(state(values=1), state(moved, values=1)) == [("eval-ppl@run", f"{RESULT}: perplexity", Verdict.WITHIN)]


def test_accuracy_counts_in_items() -> None:
    before = {"tasks/boolq/acc": 0.5, "tasks/boolq/samples": 12}
    assert within("tasks/boolq/acc", before, {"tasks/boolq/acc": 8 / 12}, False)
    assert not within("tasks/boolq/acc", before, {"tasks/boolq/acc": 9 / 12}, False)
    assert not within("tasks/boolq/acc", {"tasks/boolq/acc": 0.5}, {"tasks/boolq/acc": 0.51}, False), "of how many items?"


def test_every_tolerance_has_a_reason_and_settings_have_none() -> None:
    assert all(len(rule.why) > 20 for rule in TOLERANCES)
    for place in ("settings/run/sparsity", "settings/options/rate", "target", "tokens", "provenance/tokens", "total"):
        assert tolerance_of(place) is None, place


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
)


@given(VALUES)
def test_entries_of_json_are_those_that_were_written(value: Any) -> None:
    assert entries("x.json", json.dumps(value).encode()) == flat(value)


@given(st.binary())
def test_no_content_of_a_file_breaks_the_comparison(content: bytes) -> None:
    for path in ("results/x.json", "results/x.csv"):
        entries(path, content)


@given(st.floats(0.1, 1e6), st.floats(0.5, 2), st.booleans())
def test_a_perplexity_is_within_its_share(value: float, factor: float, moved: bool) -> None:
    limit = 0.05 if moved else 0.02
    near = within("perplexity", {"perplexity": value}, {"perplexity": value * factor}, moved)
    assert near == (abs(value * factor - value) <= limit * value)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])), st.sampled_from(Verdict))
def test_the_table_has_a_line_a_difference(text: str, verdict: Verdict) -> None:
    rows = table([Difference("s", text, text, text, verdict, text)] * 2).splitlines()
    assert len(rows) == 4
    assert all(row.replace("\\|", "").count("|") == 7 for row in rows)


def keep(objects: Path, folder: Path) -> str:
    """A folder in DVC's form of keeping it."""
    members = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        members.append({"md5": put(objects, content), "relpath": file.relative_to(folder).as_posix()})
    return put(objects, json.dumps(members).encode(), ".dir")


def put(objects: Path, content: bytes, suffix: str = "") -> str:
    md5 = md5_of(content) + suffix
    (objects / md5[:2]).mkdir(parents=True, exist_ok=True)
    (objects / md5[:2] / md5[2:]).write_bytes(content)
    return md5


def test_masks_are_compared_entry_by_entry(tmp_path: Path) -> None:
    masks = torch.rand(10, 100, generator=torch.Generator().manual_seed(0)) < 0.5
    kept = []
    for flipped in (0, 5, 200):
        folder = tmp_path / str(flipped)
        changed = masks.clone()
        changed.view(-1)[:flipped] ^= True
        PrunedStore(folder).write(0, {"q": PrunedLinear(changed)})
        kept.append(keep(tmp_path / "objects", folder))
    states = [replace(state(masks=md5), objects=tmp_path / "objects") for md5 in kept]
    assert agreement(states[0], states[1], RUN) == Agreement(995, 1000)
    assert str(Agreement(995, 1000)) == "99.5000 % of 1,000 mask entries agree, 5 differ"
    assert str(Agreement(10**7 - 1, 10**7)).startswith("99.9999 % of 10,000,000"), "nothing less than all is 100 %"
    assert found(states[0], states[1]) == [("prune@run", RUN, Verdict.WITHIN)]
    assert found(states[0], states[2]) == [("prune@run", RUN, Verdict.BEYOND)]
    assert agreement(states[0], replace(states[1], objects=tmp_path / "nowhere"), RUN) is None


@pytest.mark.parametrize("text", [None, "[", "[]", "stages: [1]", "stages: {a: 1}", "stages: {a: {deps: []}}"])
def test_a_lock_that_is_none_is_said_in_one_line(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(UserError, match=r"dvc\.lock") as error:
        read_state(tmp_path, tmp_path)
    assert "\n" not in str(error.value)


def test_a_lock_is_read_with_the_files_beside_it(tmp_path: Path) -> None:
    entry = {
        "cmd": "c",
        "deps": [{"path": "code.py", "hash": "md5", "md5": "a" * 32}],
        "params": {"params.yaml": {"ppl.key": {"seed": 0, "tasks": ["x"]}}},
        "outs": [{"path": "results/x.json", "md5": md5_of(b"{}")}, {"path": "results/gone.csv", "md5": "b" * 32}],
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"eval@key": entry, "eval@unused": entry}}))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text("{}")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"eval": {"foreach": ["key"], "do": {"cmd": "c"}}}}))
    Repo.init(str(tmp_path), no_scm=True)
    read = read_state(tmp_path, tmp_path)
    assert list(read.stages) == ["eval@key"], "of a study that is not in use"
    assert read.stages["eval@key"].parameters == {"ppl.key.seed": 0, "ppl.key.tasks.0": "x"}
    assert read.files == {"results/x.json": b"{}"}
    assert [row.what for row in differences(read, read, exact=True)] == ["results/gone.csv"]
