"""The one exception that a user may cause, and the one place that suggests near names."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input, said in one line: what is wrong, the value, and what is allowed.

    Commands print the message and leave with exit code 2; a library caller sees an ordinary exception. Where several things are
    wrong at once, each has a line (`UserError.of`); a line break in a name is shown as such and makes none.
    """

    def __init__(self, message: str) -> None:
        super().__init__(str(message).replace("\r", "\\r").replace("\n", "\\n"))

    @classmethod
    def of(cls, problems: Iterable[str]) -> "UserError":
        """One error for several problems, a line each."""
        made = cls("")
        made.args = ("\n".join(str(cls(problem)) for problem in problems),)
        return made


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that nobody registered: near names first, if it may be a slip of one, then everything that exists."""
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if any(_mistyped(name, other) for other in near) else ""
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")


def _mistyped(name: str, known: str) -> bool:
    """Whether a name is plausibly meant for a known one: a slip in every four letters, or letters left out. A longer name is most
    often the name of something else."""
    letters = iter(known)
    return _slips(name, known) <= max(1, len(name) // 4) or all(letter in letters for letter in name)


def _slips(name: str, known: str) -> int:
    """How many letters were added, left out, replaced, or exchanged with their neighbour."""
    before: list[int] = []
    row = list(range(len(known) + 1))
    for i, letter in enumerate(name, 1):
        earlier, before, row = before, row, [i]
        for j, other in enumerate(known, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and letter == known[j - 2] and name[i - 2] == other:
                cost = min(cost, earlier[j - 2] + 1)
            row.append(cost)
    return row[-1]
