"""The check that runs nothing: does dvc.lock belong to this code, these parameters and these results?"""

import re
import subprocess
import sys
from pathlib import Path

from flows.drift.compare import unsealed
from flows.drift.difference import Difference, Verdict
from flows.drift.state import State
from flows.process import BUSY
from secateur.errors import UserError

RUNNING = re.compile(r"Running stage '(.+?)'")


def plan(root: Path, committed: State) -> list[Difference]:
    """Stages that `dvc repro` would run in `root`, were all data there, and files that are not the ones that were recorded."""
    command = [sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    stale = list(dict.fromkeys(RUNNING.findall(done.stdout)))
    unequal = [difference for name in committed.stages for difference in unsealed(name, committed)]
    # Behind a stage that would run DVC may miss data, which does not matter any more.
    if done.returncode and not stale and not unequal:
        if any(sign in done.stderr for sign in BUSY):
            raise UserError("another process runs stages here: try again when it is done")
        raise UserError(f"dvc repro --dry: {' '.join(done.stderr.split())}")
    found = [Difference(name, "the stage", "", "", Verdict.DIFFERS, "`dvc repro` would run it") for name in stale]
    return found + unequal
