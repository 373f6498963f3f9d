"""Errors of the flows' commands as one line."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from secateur.errors import UserError
from stages import _io

P = ParamSpec("P")
R = TypeVar("R")


def one_line_errors(command: Callable[P, R]) -> Callable[P, R]:
    """As in the stages' commands; and what the system refuses to do with a file is said by the file's name."""

    @_io.one_line_errors
    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except OSError as error:
            if not error.filename:
                raise
            raise UserError(f"{error.filename}: {error.strerror}") from None

    return wrapped
