"""After the download nothing of a run speaks to the network, and no dependency tries to."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from stages._io import SILENT
from tests import check_project
from tests.check_project import dvc, git, make_project, python

pytestmark = pytest.mark.slow
# Python runs this before anything else. It writes down and forbids every connection and every look-up of a name.
GUARD = """
import os, sys
def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        address = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
        host = address[0] if isinstance(address, tuple) else address
        if isinstance(address, (str, bytes)) and event in ("socket.connect", "socket.sendto"):
            return  # a Unix socket
        with open(os.environ["ATTEMPTS"], "a") as log:
            log.write(f"{event} {host!r} by {sys.argv}\\n")
        raise OSError("the network is closed in this test")
sys.addaudithook(guard)
"""
BOOLQ = {"question": ["is it 1", "is it 2"], "answer": [True, False], "passage": ["1 2 3", "4 5 6"]}
MORE: dict[str, Any] = {
    "calibrations": {
        **check_project.STUDY["calibrations"],
        "blocks": {"corpus": "text", "split": "train", "sampler": "packed", "samples": 4, "length": 32},
    },
    "finetunes": {"short": {"recipe": "wanda", "data": "blocks", "batch": 2, "micro_batch": 2, "modes": ["unmerged"]}},
    "runs": [{"calibration": "text", "method": "wanda", "sparsity": 0.5, "finetune": "short"}],
    "zeroshot": [{"data": "yesno", "tasks": ["boolq"]}],
}


@pytest.fixture
def project(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A project with every stage in it, downloads done."""
    root = make_project(tmp_path / "project", tiny_model("llama"))
    words = PreTrainedTokenizerFast.from_pretrained(root / "data" / "tiny", eos_token="1")  # lm-eval needs one
    words.save_pretrained(root / "data" / "tiny")
    Dataset.from_dict(BOOLQ).save_to_disk(root / "data" / "tasks" / "hf_datasets" / "boolq" / "none" / "validation")
    tasks = {"tasks": {"yesno": {"source": "file:data/tasks", "tasks": ["boolq"]}}}
    study = check_project.STUDY | MORE | {"assets": check_project.STUDY["assets"] | tasks}
    (root / "pipelines" / "tiny.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    python(root, "-m", "pipelines", "use", "tiny")
    dvc(root, "repro", "download")
    git(root, "add", "--all")
    return root


def closed(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command whose processes cannot reach any network: Python forbids it, and where the system can, so does it."""
    guard = root.parent / "guard"
    guard.mkdir(exist_ok=True)
    (guard / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    alone = ["unshare", "--map-root-user", "--net"]
    can = subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {"PATH": path, "PYTHONPATH": f"{guard}{os.pathsep}{root}", "ATTEMPTS": str(root.parent / "attempts")}
    mine = {name: value for name, value in os.environ.items() if name not in SILENT}  # commands have to be silent by themselves
    return subprocess.run([*(alone if can else []), *command], cwd=root, env=mine | given, capture_output=True, text=True)


def test_a_whole_run_makes_no_connection(project: Path) -> None:
    done = closed(project, sys.executable, "-m", "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = {line.split("'")[1].partition("@")[0] for line in done.stdout.splitlines() if line.startswith("Running stage")}
    assert stages == {"calibrate-stats", "prune", "lora-finetune", "eval-ppl", "eval-zeroshot", "report"}
    attempts = project.parent / "attempts"
    assert not attempts.exists(), attempts.read_text()
    assert closed(project, sys.executable, "-m", "flows", "track").returncode == 0
    assert not attempts.exists(), attempts.read_text()


def test_the_guard_would_notice(project: Path) -> None:
    program = "import urllib.request; urllib.request.urlopen('http://192.0.2.1')"
    assert closed(project, sys.executable, "-c", program).returncode != 0
    assert "192.0.2.1" in (project.parent / "attempts").read_text()
