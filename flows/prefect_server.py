"""Prefect's server as a command meets it: there, not there, or something that this Prefect cannot talk to."""

from collections.abc import Iterator
from contextlib import contextmanager
from json import JSONDecodeError

import httpx

from secateur.errors import UserError

REMEDY = "start one with `make server`, or name another in PREFECT_API_URL"


def api_url() -> str:
    """The address of Prefect's API: PREFECT_API_URL, or that of prefect.toml."""
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value() or "(none named: PREFECT_API_URL)")


def must_answer() -> None:
    """A `UserError` unless a Prefect server answers at `api_url()`."""
    if not reachable(address := api_url()):
        raise UserError(f"no Prefect server at {address}: {REMEDY}")


def reachable(address: str) -> bool:
    """Whether a Prefect server answers there. If something else does, or a Prefect that ours does not understand, a `UserError`
    says what: whoever named the address did not mean that."""
    try:
        health = httpx.get(f"{address}/health", timeout=5)
    except (httpx.TransportError, httpx.InvalidURL, UnicodeError, ImportError):  # nobody, no address, no such proxy
        return False
    if not health.is_success or health.text.strip() != "true":
        raise UserError(f"{address} is no Prefect server, {_said(health)} to /health: {REMEDY}")
    _check_version(address)
    return True


def _check_version(address: str) -> None:
    """The rule of Prefect's own clients: major versions must be the same."""
    import prefect
    from packaging.version import InvalidVersion, Version
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    # The client knows the password, if there is one. It need not try again: the server has just answered.
    with one_line(address), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}), get_client(sync_client=True) as client:
        found = client.api_version()
    try:
        theirs = Version(found)
    except (InvalidVersion, TypeError):
        raise UserError(f"{address} is no Prefect server, it names {found!r} as its version: {REMEDY}") from None
    if theirs.major != Version(prefect.__version__).major:
        raise UserError(
            f"{address} is a Prefect server of version {theirs}, this project has Prefect {prefect.__version__}: the major "
            f"versions must be the same; {REMEDY}"
        )


@contextmanager
def one_line(address: str) -> Iterator[None]:
    """An answer of the server that Prefect's client gives up on, as a `UserError` with the address."""
    from pydantic import ValidationError

    try:
        yield
    except httpx.HTTPStatusError as error:
        what = f"{_said(error.response)} to {error.request.url.path}"
        remedy = "set PREFECT_API_AUTH_STRING" if error.response.status_code in (401, 403) else REMEDY
        raise UserError(f"{address} cannot be used as a Prefect server, {what}: {remedy}") from None
    except httpx.HTTPError as error:
        why = f"{type(error).__name__}: {error}"
        raise UserError(f"{address}: Prefect's server does not answer any more ({why}): {REMEDY}") from None
    except (JSONDecodeError, ValidationError) as error:
        why = " ".join(str(error).split())[:100]
        raise UserError(f"{address} answers otherwise than a Prefect server of this version ({why}): {REMEDY}") from None


def _said(answer: httpx.Response) -> str:
    """What an answer was, in a few words."""
    if not answer.is_success:
        return f"it answers HTTP {answer.status_code}"
    text = " ".join(answer.text.split())
    return f"it answers {text[:40]!r}"
