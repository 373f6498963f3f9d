"""The one exception that a user may cause, and the one place that suggests near names."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input, said in one line: what is wrong, the value, and what is allowed.

    Commands print the message and leave with exit code 2; a library caller sees an ordinary exception.
    """


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that nobody registered: near names first, then everything that exists."""
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"unknown {kind} {name!r}{hint} (known: {', '.join(known) or 'none'})")
