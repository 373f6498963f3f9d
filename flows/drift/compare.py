"""Compare two states of the pipeline, stage by stage: bit for bit, or within the tolerances for another machine."""

from collections.abc import Iterator, Mapping
from typing import Any

from flows.drift.difference import Difference, Verdict
from flows.drift.outputs import output_differences, short
from flows.drift.state import Stage, State, is_result, md5_of


def differences(before: State, after: State, exact: bool) -> list[Difference]:
    """Everything in which `after` is not `before`. `exact`: every hash has to be equal. Else commands, parameters, code and data
    that is fetched still have to be; results have the tolerances of `flows.drift.tolerances`."""
    found: list[Difference] = []
    for name in dict.fromkeys((*after.stages, *before.stages)):
        if name not in before.stages:
            found.append(Difference(name, "the stage", "-", "ran", Verdict.NEW))
        elif name not in after.stages:
            found.append(Difference(name, "the stage", "ran", "-", Verdict.MISSING))
        else:
            found += _stage(name, before, after, exact)
    return found


def _stage(name: str, before: State, after: State, exact: bool) -> Iterator[Difference]:
    old, new = before.stages[name], after.stages[name]
    yield from dict.fromkeys(difference for state in (before, after) for difference in unsealed(name, state))
    yield from _values(name, "command", {"": old.command}, {"": new.command})
    yield from _values(name, "parameter", old.parameters, new.parameters)
    yield from _inputs(name, before, after, exact)
    yield from output_differences(name, before, after, exact)


def unsealed(name: str, state: State) -> Iterator[Difference]:
    """Result files of a stage that are not the ones that dvc.lock records, and inputs that were made anew after it ran."""
    stage = state.stages[name]
    for path, recorded in stage.outputs.items():
        if is_result(path):
            found = md5_of(state.files[path]) if path in state.files else "no file"
            if found != recorded:
                yield Difference(name, path, short(found), short(recorded), Verdict.UNSEALED, "the file; its record in dvc.lock")
    for path, recorded in stage.inputs.items():
        if (made := state.outputs.get(path, recorded)) != recorded:
            yield Difference(name, path, short(recorded), short(made), Verdict.UNSEALED, "as the stage read it; as it was made")


def _values(name: str, kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Difference]:
    for key in dict.fromkeys((*old, *new)):
        what = f"{kind} {key}".rstrip()
        if key not in old:
            yield Difference(name, what, "-", short(new[key]), Verdict.NEW)
        elif key not in new:
            yield Difference(name, what, short(old[key]), "-", Verdict.MISSING)
        elif old[key] != new[key] or type(old[key]) is not type(new[key]):
            yield Difference(name, what, short(old[key]), short(new[key]), Verdict.DIFFERS)


def _inputs(name: str, before: State, after: State, exact: bool) -> Iterator[Difference]:
    """Code and data. What another stage makes is said there, not again at everyone who reads it."""
    old, new = (_said_here(state.stages[name], before, after, exact) for state in (before, after))
    yield from _values(name, "input", old, new)


def _said_here(stage: Stage, before: State, after: State, exact: bool) -> dict[str, str]:
    made = {path for state in (before, after) for path in state.outputs}
    changed = {path for path in made if before.outputs.get(path) != after.outputs.get(path)}
    said_elsewhere = changed if exact else made
    return {
        path: md5
        for path, md5 in stage.inputs.items()
        if not any(other == path or other.startswith(f"{path}/") for other in said_elsewhere)
    }
