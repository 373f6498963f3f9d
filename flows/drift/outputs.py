"""Compare what one stage made: folders by their hash and their masks, results entry by entry."""

from collections.abc import Iterator, Mapping
from typing import Any

from flows.drift.difference import Difference, Verdict
from flows.drift.leaves import entries
from flows.drift.masks import agreement
from flows.drift.state import State, is_result, md5_of
from flows.drift.tolerances import ARRANGED, FETCHED, MASK_AGREEMENT, rank, tolerance_of, within

SHOWN = 6  # entries of one file that are listed; the others are counted


def output_differences(name: str, before: State, after: State, exact: bool) -> Iterator[Difference]:
    """What stage `name` of both states made, where it is not the same."""
    old, new = before.stages[name].outputs, after.stages[name].outputs
    for path in dict.fromkeys((*old, *new)):
        if path not in old:
            yield Difference(name, path, "-", short(new[path]), Verdict.NEW)
        elif path not in new:
            yield Difference(name, path, short(old[path]), "-", Verdict.MISSING)
        elif is_result(path) and path in before.files and path in after.files:
            yield from _result(name, path, before.files[path], after.files[path], exact)
        elif old[path] != new[path]:
            yield _hash(name, path, before, after, exact)


def _hash(name: str, path: str, before: State, after: State, exact: bool) -> Difference:
    """Something that only its hash is known of, or masks."""
    old, new = short(before.outputs[path]), short(after.outputs[path])
    shared = agreement(before, after, path)
    note = str(shared) if shared else ""
    if exact or name.startswith(FETCHED):
        return Difference(name, path, old, new, Verdict.DIFFERS, note)
    if shared:
        near = 1 - shared.share <= MASK_AGREEMENT.limit
        return Difference(name, path, old, new, Verdict.WITHIN if near else Verdict.BEYOND, note)
    masks = name.startswith("prune@")
    why = "the committed masks are not in DVC's cache here" if masks else "floating point; what is made of it is compared"
    return Difference(name, path, old, new, Verdict.UNSEEN, why)


def _result(name: str, path: str, before: bytes, after: bytes, exact: bool) -> Iterator[Difference]:
    if before == after:
        return
    if not exact and path.startswith(ARRANGED):
        note = "arranges results that are compared"
        yield Difference(name, path, short(md5_of(before)), short(md5_of(after)), Verdict.UNSEEN, note)
        return
    old, new = entries(path, before), entries(path, after)
    places = [] if old is None or new is None else _unequal(old, new)
    if old is None or new is None or not places:  # not to be read, or another spelling of the same
        yield Difference(name, path, short(md5_of(before)), short(md5_of(after)), Verdict.DIFFERS)
        return
    near = [place for place in places if not exact and place in old and place in new and within(place, old, new)]
    far = sorted((place for place in places if place not in set(near)), key=rank)
    for place in far[:SHOWN]:
        verdict = Verdict.MISSING if place not in new else Verdict.NEW if place not in old else Verdict.DIFFERS
        rule = None if exact else tolerance_of(place)
        if verdict is Verdict.DIFFERS and rule:
            verdict = Verdict.BEYOND
        note = f"allowed: {rule.limit:g}, {rule.kind}" if rule else ""
        yield Difference(name, f"{path}: {place}", _at(old, place), _at(new, place), verdict, note)
    if len(far) > SHOWN:
        yield Difference(name, path, "", "", Verdict.DIFFERS, f"and {len(far) - SHOWN} more entries of this file")
    if near:  # the one that matters most stands for all
        place = min(near, key=rank)
        note = f"and {len(near) - 1} more entries" if len(near) > 1 else ""
        yield Difference(name, f"{path}: {place}", _at(old, place), _at(new, place), Verdict.WITHIN, note)


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
