"""Worked numeric examples run against the library: `python -m tests.oracles DIR`.

Each JSON file is `{"method", "cases": [{"name", "inputs", "params", "expected"}]}`. A checker turns the inputs and parameters of
a case into everything the library can say about it; every expected field must be among that and agree: masks and counts
exactly, numbers within rtol 1e-4 and atol 1e-5.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DATA = Path(__file__).parent / "data"
Checker = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One worked example and where it stands."""

    file: str
    method: str
    name: str
    inputs: dict[str, Any]
    params: dict[str, Any]
    expected: dict[str, Any]


def read_cases(folder: Path) -> list[Case]:
    """All cases of all oracle files in `folder`, in the order of their names."""
    cases = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        cases += [
            Case(path.stem, content["method"], case["name"], case["inputs"], case.get("params", {}), case["expected"])
            for case in content["cases"]
        ]
    return cases


def differences(case: Case, checker: Checker) -> list[str]:
    """What the library says otherwise than the case expects; empty if it agrees."""
    # A case without inputs states figures that have to be consistent: they are what the checker starts from.
    found = checker(case.inputs or case.expected, case.params)
    wrong = []
    for field, expected in case.expected.items():
        if field not in found:
            wrong.append(f"{field}: not computed by the checker")
        elif not agree(found[field], expected):
            wrong.append(f"{field}: expected {expected}, found {plain(found[field])}")
    return wrong


def plain(value: Any) -> Any:
    """Tensors as nested lists."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


def agree(found: Any, expected: Any) -> bool:
    """Equal for booleans and integers; within the oracles' tolerance for floats; the same structure in any case."""
    found = plain(found)
    if isinstance(expected, list):
        same_length = isinstance(found, list | tuple) and len(found) == len(expected)
        return same_length and all(agree(one, other) for one, other in zip(found, expected, strict=True))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(agree(found[key], expected[key]) for key in expected)
    if isinstance(expected, float):
        return abs(found - expected) <= 1e-5 + 1e-4 * abs(expected)
    return found == expected
