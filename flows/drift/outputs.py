"""Compare what one stage made: folders by their hash and their masks, results entry by entry."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flows.drift.difference import Difference, Verdict
from flows.drift.leaves import entries
from flows.drift.masks import agreement
from flows.drift.state import State, is_result, md5_of
from flows.drift.tolerances import ARRANGED, FETCHED, MASK_AGREEMENT, rank, tolerance_of, within

PRUNED = "artifacts/pruned/"
SHOWN = 6  # entries of one file that are listed; the others are counted


@dataclass(frozen=True)
class Strictness:
    """`exact`: no tolerance. `moved`: the subject's surviving weights are not the dense ones."""

    exact: bool
    moved: bool


def output_differences(name: str, before: State, after: State, exact: bool) -> Iterator[Difference]:
    """What stage `name` of both states made, where it is not the same."""
    old, new = before.stages[name].outputs, after.stages[name].outputs
    strict = Strictness(exact, _moved(name, before))
    for path in dict.fromkeys((*old, *new)):
        if path not in old:
            yield Difference(name, path, "-", short(new[path]), Verdict.NEW)
        elif path not in new:
            yield Difference(name, path, short(old[path]), "-", Verdict.MISSING)
        elif is_result(path) and path in before.files and path in after.files:
            yield from _result(name, path, before.files[path], after.files[path], strict)
        elif old[path] != new[path]:
            yield _hash(name, path, before, after, strict)


def _moved(name: str, state: State) -> bool:
    """Whether stage `name` makes or reads a run that stores values of its own."""
    stage = state.stages[name]
    runs = [path.removeprefix(PRUNED) for path in (*stage.inputs, *stage.outputs) if path.startswith(PRUNED)]
    results = (f"results/sparsity/{run}.json" for run in runs)
    return any((entries(path, state.files.get(path, b"")) or {}).get("bytes/values") for path in results)


def _hash(name: str, path: str, before: State, after: State, strict: Strictness) -> Difference:
    """Something that only its hash is known of, or masks."""
    old, new = short(before.outputs[path]), short(after.outputs[path])
    shared = agreement(before, after, path)
    note = str(shared) if shared else ""
    if strict.exact or name.startswith(FETCHED):
        return Difference(name, path, old, new, Verdict.DIFFERS, note)
    if shared:
        near = 1 - shared.share <= MASK_AGREEMENT.bound(strict.moved)
        return Difference(name, path, old, new, Verdict.WITHIN if near else Verdict.BEYOND, note)
    masks = name.startswith("prune@")
    why = "the committed masks are not in DVC's cache here" if masks else "floating point; what is made of it is compared"
    return Difference(name, path, old, new, Verdict.UNSEEN, why)


def _result(name: str, path: str, before: bytes, after: bytes, strict: Strictness) -> Iterator[Difference]:
    if before == after:
        return
    if not strict.exact and path.startswith(ARRANGED):
        note = "arranges results that are compared"
        yield Difference(name, path, short(md5_of(before)), short(md5_of(after)), Verdict.UNSEEN, note)
        return
    old, new = entries(path, before), entries(path, after)
    places = [] if old is None or new is None else _unequal(old, new)
    if old is None or new is None or not places:  # not to be read, or another spelling of the same
        yield Difference(name, path, short(md5_of(before)), short(md5_of(after)), Verdict.DIFFERS)
        return
    both = [] if strict.exact else [place for place in places if place in old and place in new]
    near = [place for place in both if within(place, old, new, strict.moved)]
    far = sorted((place for place in places if place not in set(near)), key=rank)
    for place in far[:SHOWN]:
        verdict = Verdict.MISSING if place not in new else Verdict.NEW if place not in old else Verdict.DIFFERS
        rule = None if strict.exact else tolerance_of(place)
        if verdict is Verdict.DIFFERS and rule:
            verdict = Verdict.BEYOND
        note = f"allowed: {rule.bound(strict.moved):g}, {rule.kind}" if rule else ""
        yield Difference(name, f"{path}: {place}", _at(old, place), _at(new, place), verdict, note)
    if len(far) > SHOWN:
        yield Difference(name, path, "", "", Verdict.DIFFERS, f"and {len(far) - SHOWN} more entries of this file")
    if near:  # the one that matters most stands for all
        place = min(near, key=rank)
        note = f"and {len(near) - 1} more entries" if len(near) > 1 else ""
        rule = tolerance_of(place)
        verdict = Verdict.UNSEEN if rule and rule.kind == "follows" else Verdict.WITHIN
        yield Difference(name, f"{path}: {place}", _at(old, place), _at(new, place), verdict, note)


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Places at which one has something that the other has not; 1 and 1.0 and true are different things."""
    both = dict.fromkeys((*old, *new))
    return [place for place in both if place not in old or place not in new or repr(old[place]) != repr(new[place])]


def _at(values: Mapping[str, Any], place: str) -> str:
    return short(values[place]) if place in values else "-"


def short(value: Any) -> str:
    """A value as text: numbers in full, hashes by their first eight digits, long texts by their beginning."""
    if not isinstance(value, str):
        return repr(value)
    digits = value.removesuffix(".dir")
    if len(digits) in (32, 64) and not set(digits) - set("0123456789abcdef"):
        return digits[:8]
    return value if len(value) <= 48 else f"{value[:45]}..."
