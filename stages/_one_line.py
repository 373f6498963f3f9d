"""Errors of a download as one line, whatever raised them and whatever a file is called."""

from collections.abc import Iterator
from contextlib import contextmanager

from secateur.errors import UserError


@contextmanager
def one_line(source: str) -> Iterator[None]:
    """What the system says (a full disk, a file that may not be read) becomes a `UserError` that names the source and the file,
    and the message of every `UserError` becomes printable: a file's name may hold line breaks."""
    try:
        yield
    except UserError as error:
        raise UserError(_printable(str(error))) from error.__cause__
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise UserError(_printable(f"{source}: {error.strerror or error}{where}")) from error


def reason(error: BaseException) -> BaseException:
    """The first of the errors that led to this one: libraries wrap it in others that do not say what is wrong.

    Raises it where it is the system's: a full disk is no fault of the data.
    """
    while error.__cause__:
        error = error.__cause__
    if isinstance(error, OSError) and error.errno and not isinstance(error, FileNotFoundError):
        raise error from None
    return error


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
