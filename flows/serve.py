"""Prefect's and MLflow's servers on this machine, for this machine only, and workers for them.

What the servers write lies in .servers/ (Prefect's database, logs) and beside it (mlflow.db, mlartifacts/).
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from flows.locks import holding
from flows.tracking.database import ARTIFACTS, DATABASE, FILE
from secateur.errors import UserError

FOLDER = Path(".servers")
HOST = "127.0.0.1"
PORT = 4200  # of Prefect in prefect.toml
PATIENCE = 120.0  # seconds until a server must answer


@dataclass(frozen=True)
class Server:
    """A server of this project: how it is started, and where it says that it is well."""

    name: str
    port: int
    option: str
    command: tuple[str, ...]
    health: str
    environment: Mapping[str, str]

    @property
    def address(self) -> str:
        """Where it is looked at."""
        return f"http://{HOST}:{self.port}"

    @property
    def _note(self) -> Path:
        return FOLDER / f"{self.name}.pid"

    def process(self) -> tuple[psutil.Process, int] | None:
        """The running server that an earlier call started in this folder, and its port."""
        try:
            number, started, port = self._note.read_text(encoding="utf-8").split()
            found = psutil.Process(int(number))
            same = f"{found.create_time():.2f}" == started and found.status() != psutil.STATUS_ZOMBIE
            return (found, int(port)) if same else None
        except (FileNotFoundError, NotADirectoryError, ValueError, psutil.NoSuchProcess):
            return None

    def well(self) -> bool:
        """Whether something answers where the server should."""
        try:
            return httpx.get(f"{self.address}{self.health}", timeout=2, trust_env=False).is_success
        except httpx.TransportError:
            return False

    def runs(self) -> bool:
        """Whether it runs already; a `UserError` if its port is another's, or it has another port."""
        if running := self.process():
            if running[1] != self.port:
                raise UserError(f"{self.name} of this folder runs on port {running[1]} already: end it with python -m flows stop")
            return True
        if _taken(self.port):
            raise UserError(f"port {self.port} of {HOST} is in use by something else: choose another one with {self.option}")
        return False

    def start(self) -> bool:
        """Start it in the background, unless it runs already (False), and come back when it answers."""
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        with holding(FOLDER / f"{self.name}.lock", f"starts {self.name} here"):
            new = not self.runs()
            if new:
                self._launch()
            self._wait()
        return new

    def _launch(self) -> None:
        with (FOLDER / f"{self.name}.log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", *self.command],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._note.write_text(f"{child.pid} {psutil.Process(child.pid).create_time():.2f} {self.port}", encoding="utf-8")

    def _wait(self) -> None:
        ended = time.monotonic() + PATIENCE
        while not self.well():
            if self.process() is None or time.monotonic() > ended:
                self.stop()
                raise UserError(f"{self.name} did not start; see {FOLDER / self.name}.log")
            time.sleep(0.2)

    def stop(self) -> bool:
        """End it and all that it started; False if it does not run."""
        running = self.process()
        if running is None:
            return False
        main = running[0]
        family = [*main.children(recursive=True), main]
        main.terminate()
        _, left = psutil.wait_procs(family, timeout=15)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5)
        self._note.unlink()
        return True


def prefect(port: int) -> Server:
    """Prefect's server, its database in this folder."""
    command = ("prefect", "--no-prompt", "server", "start", "--host", HOST, "--port", str(port))
    here = {"PREFECT_HOME": str(FOLDER.resolve() / "prefect"), "PREFECT_API_URL": f"http://{HOST}:{port}/api"}
    # Pages of other sites, open in the same browser, may not start runs.
    here["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = f"http://{HOST}:{port},http://localhost:{port}"
    return Server("prefect", port, "--port", command, "/api/health", here)


def mlflow(port: int) -> Server:
    """MLflow's server over the database that is used without a server, too."""
    store = ("--backend-store-uri", f"{FILE}{DATABASE}", "--artifacts-destination", ARTIFACTS)
    where = ("--host", HOST, "--port", str(port), "--workers", "1", "--allowed-hosts", f"{HOST}:{port},localhost:{port}")
    return Server("mlflow", port, "--mlflow-port", ("mlflow", "server", *store, *where), "/health", {})


def _taken(port: int) -> bool:
    """Whether another program listens there, with or without HTTP."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False
