"""Servers that are not the Prefect server that the commands expect: of another version, of another kind, broken."""

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import prefect
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect_server import must_answer, reachable
from secateur.errors import UserError
from tests.flow_project import flows, free_port, make, run

Answer = tuple[int, str]
YES = (200, "true")
OURS = (200, json.dumps(prefect.__version__))


def playing(answers: Mapping[str, Answer], otherwise: Answer) -> type[BaseHTTPRequestHandler]:
    """A server that has these answers for the ends of paths, and one for everything else."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, text = next((found for end, found in answers.items() if self.path.endswith(end)), otherwise)
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PUT = do_PATCH = answer

        def log_message(self, *_: Any) -> None: ...

    return Handler


@contextmanager
def server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of Prefect's API on a server that plays one."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}/api"
        finally:
            listening.shutdown()


def asked(handler: type[BaseHTTPRequestHandler], question: Callable[[str], Any]) -> Any:
    with server(handler) as address, temporary_settings({PREFECT_API_URL: address}):
        return question(address)


class Folder(SimpleHTTPRequestHandler):
    """What `python -m http.server` starts."""

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        (
            playing({"/health": YES, "/version": (200, '"2.20.4"')}, (404, "")),
            "is a Prefect server of version 2.20.4, this project",
        ),
        (
            playing({"/health": YES, "/version": (200, '"4.0.0rc1"')}, (404, "")),
            "of version 4.0.0rc1, this project has Prefect 3.",
        ),
        (playing({"/health": YES}, (404, "{}")), "it answers HTTP 404 to /api/admin/version"),
        (playing({"/health": YES}, (500, "oh")), "it answers HTTP 500 to /api/admin/version"),
        (playing({"/health": YES}, (503, "oh")), "it answers HTTP 503 to /api/admin/version"),
        (playing({"/health": YES}, (401, "{}")), "HTTP 401 to /api/admin/version: set PREFECT_API_AUTH_STRING"),
        (playing({"/health": YES}, (200, "<html>")), "answers otherwise than a Prefect server of this version"),
        (playing({"/health": YES}, (200, '{"version": 3}')), "it names {'version': 3} as its version"),
        (playing({"/health": YES}, (200, '"latest"')), "it names 'latest' as its version"),
        (playing({}, (404, "")), "is no Prefect server, it answers HTTP 404 to /health"),
        (playing({}, (500, "true")), "it answers HTTP 500 to /health"),
        (playing({}, (200, "<html>\n<p>hello")), "it answers '<html> <p>hello' to /health"),
        (playing({}, (200, "")), "it answers '' to /health"),
        (playing({}, (200, '{"status": "ok"}')), 'it answers \'{"status": "ok"}\' to /health'),
        (Folder, "it answers HTTP 404 to /health"),
    ],
)
def test_another_server_is_named_with_what_it_said(handler: type[BaseHTTPRequestHandler], found: str) -> None:
    with pytest.raises(UserError) as raised:
        asked(handler, reachable)
    said = str(raised.value)
    assert found in said and said.startswith("http://127.0.0.1:") and "\n" not in said
    assert "PREFECT_API_URL" in said or "PREFECT_API_AUTH_STRING" in said


@pytest.mark.parametrize("version", [prefect.__version__, "3.0.1", "3.99.0", "3.5.0.dev2"])
def test_another_version_with_the_same_major_number_will_do(version: str) -> None:
    assert asked(playing({"/health": YES, "/version": (200, json.dumps(version))}, (404, "")), reachable)


def test_nobody_there_is_no_error_until_a_server_is_needed() -> None:
    address = f"http://127.0.0.1:{free_port()}/api"
    assert not reachable(address)
    with temporary_settings({PREFECT_API_URL: address}), pytest.raises(UserError, match=f"no Prefect server at {address}: start"):
        must_answer()


def test_a_program_that_speaks_no_http_is_nobody() -> None:
    def greet(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=greet, args=(listening,), daemon=True).start()
        assert not reachable(f"http://127.0.0.1:{listening.getsockname()[1]}/api")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project; nothing of it is run."""
    return make(tmp_path_factory.mktemp("versions") / "project")


OLDER = playing({"/health": YES, "/version": (200, '"2.20.4"')}, (404, ""))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "handler", "found"),
    [
        (["deploy"], OLDER, "of version 2.20.4"),
        (["worker"], OLDER, "of version 2.20.4"),
        (["reproduce"], OLDER, "of version 2.20.4"),
        (["worker"], Folder, "it answers HTTP 404 to /health"),
        (["reproduce"], Folder, "it answers HTTP 404 to /health"),
        (["deploy"], playing({"/health": YES, "/version": OURS}, (404, "{}")), "HTTP 404 to /api/work_pools/"),
        (["deploy"], playing({"/health": YES, "/version": OURS}, (500, "oh")), "it answers HTTP 500 to /api/"),
        (["deploy"], playing({"/health": YES, "/version": OURS}, (200, "oh")), "answers otherwise than a Prefect server"),
        (["deploy"], playing({"/health": YES, "/version": OURS}, (200, "[]")), "answers otherwise than a Prefect server"),
    ],
)
def test_a_command_ends_with_one_line(
    command: list[str], handler: type[BaseHTTPRequestHandler], found: str, project: Path
) -> None:
    with server(handler) as address:
        done = run(project, *flows(*command), check=False, PREFECT_API_URL=address)
    lines = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stdout, done.stdout
    assert len(lines) == 1 and address in lines[0] and found in lines[0]
