"""Every worked example, and the runner's own honesty."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.oracles import DATA, Case, differences, read_cases
from tests.oracles.__main__ import main
from tests.oracles.checkers import CHECKERS

CASES = read_cases(DATA)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}/{case.name}")
def test_oracle(case: Case) -> None:
    assert differences(case, CHECKERS[case.method]) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}/{case.name}")
def test_a_wrong_expectation_is_noticed(case: Case) -> None:
    """Every expected field takes part: change its numbers and the case must fail."""

    def spoil(value: object) -> object:
        if isinstance(value, list):
            return [spoil(item) for item in value]
        if isinstance(value, dict):
            return {name: spoil(item) for name, item in value.items()}
        if isinstance(value, str):
            return f"{value}?"
        if isinstance(value, int):
            return 1 - value if value in (0, 1) else value + 1
        return value * 1.01 + 1  # type: ignore[operator]

    for field in case.expected:
        wrong = replace(case, expected={field: spoil(case.expected[field])})
        assert differences(wrong, CHECKERS[case.method])


def test_the_command_counts_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((DATA / "magnitude.json").read_text())
    content["cases"] = content["cases"][:2]
    content["cases"][1]["expected"]["n_pruned"] = 7
    (tmp_path / "magnitude.json").write_text(json.dumps(content))
    assert main(tmp_path) == 1
    assert capsys.readouterr().out.endswith("1 passed, 1 failed, 0 skipped\n")
    assert main(DATA) == 0
