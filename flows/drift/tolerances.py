"""How far a result may be from the committed one on another machine, entry by entry, and why that far and no further.

On the machine that made the committed state nothing here applies: there every hash is equal, or it has drifted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

Kind = Literal["relative", "absolute", "items", "follows"]


@dataclass(frozen=True)
class Tolerance:
    """`entries`: places in result files (`*` is anything). `limit` is a share of the committed value (relative), in the entry's
    own unit (absolute), or a number of items of the task whose `samples` stand beside it. What `follows` is not looked at.
    `moved` is the limit for runs that move the surviving weights (SparseGPT, OBS, ALPS, ...): whatever rounding decides in one
    column changes the weights of all that come after it."""

    entries: tuple[str, ...]
    kind: Kind
    limit: float
    why: str
    moved: float | None = None

    def bound(self, moved: bool) -> float:
        """The limit, for a run of which the surviving weights are its own or not."""
        return self.limit if self.moved is None or not moved else self.moved


# The first that fits counts; an entry that none fits has to be equal.
TOLERANCES = (
    Tolerance(
        ("perplexity", "perplexity_before", "perplexity_after", "*/held_out_perplexity"),
        "relative",
        0.02,
        "seen between two processors: 1e-5 where weights stay as they are; where they are moved, up to 3.2 % (SparseGPT 2:4)",
        moved=0.05,
    ),
    Tolerance(("mean_nll",), "absolute", 0.02, "nats a token: the logarithm of the same shares", moved=0.05),
    Tolerance(("nll_standard_error",), "relative", 0.1, "a spread over few windows moves more than their mean"),
    Tolerance(("curve/*/loss", "[0-9]*/loss"), "relative", 0.02, "nats a token of one batch, which few tokens make"),
    Tolerance(("tasks/*/acc", "tasks/*/acc_norm"), "items", 2, "an answer is a comparison: an item or two lie on its edge"),
    Tolerance(
        ("achieved", "blocks/*/sparsity", "table/*"),
        "absolute",
        1e-4,
        "how many weights go is counted, not measured; only ties at a threshold can add some",
    ),
    Tolerance(("tasks/*/acc_stderr", "tasks/*/acc_norm_stderr", "means/*/mean"), "follows", 0, "of the accuracies above"),
    Tolerance(("pruned", "blocks/*/pruned", "bytes/*"), "follows", 0, "of the sparsities, compared above"),
    Tolerance(("measures/*",), "follows", 0, "the allocation's table, made of these, is compared"),
    Tolerance(("choices/*", "kept_step"), "follows", 0, "a choice between near-equals; its perplexity is compared"),
    Tolerance(
        tuple(f"provenance/{name}" for name in ("masks", "statistics", "gradients", "adapter", "allocation")),
        "follows",
        0,
        "hashes of floating-point data; masks are compared one by one",
    ),
)
MASK_AGREEMENT = Tolerance(
    ("artifacts/pruned/*",),
    "absolute",
    0.01,
    "share of entries that differ, near-ties of scores; seen between 1 and 2 threads: Wanda 0, SparseGPT 30 % 0.5 %, 2:4 8.4 %",
    moved=0.15,
)
# Files that only arrange what other files say: there is nothing of their own in them to compare.
ARRANGED = ("results/report.", "results/plots/")
# Outputs that floating point has no part in: what is fetched is fetched byte by byte.
FETCHED = "download@"


def tolerance_of(place: str) -> Tolerance | None:
    """The tolerance of an entry; None: it has to be equal."""
    return next((rule for rule in TOLERANCES if any(fnmatchcase(place, pattern) for pattern in rule.entries)), None)


def rank(place: str) -> int:
    """Where the entry's tolerance stands in the table: what matters most comes first."""
    rule = tolerance_of(place)
    return TOLERANCES.index(rule) if rule else -1


def within(place: str, before: Mapping[str, Any], after: Mapping[str, Any], moved: bool) -> bool:
    """Whether the entry `place` of one result file is near enough to that of another; both have it."""
    old, new, rule = before[place], after[place], tolerance_of(place)
    if type(old) is type(new) and old == new:
        return True
    if rule is None or not (_is_number(old) and _is_number(new)):
        return rule is not None and rule.kind == "follows"
    distance, limit = abs(new - old), rule.bound(moved)
    if rule.kind == "relative":
        return distance <= limit * abs(old)
    if rule.kind == "items":
        samples = before.get(f"{place.rpartition('/')[0]}/samples")
        return _is_number(samples) and distance * samples <= limit + 1e-6
    return rule.kind == "follows" or distance <= limit


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
