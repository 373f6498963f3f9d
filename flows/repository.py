"""What git says of a clone."""

import os
import subprocess
from pathlib import Path

from secateur.errors import UserError

FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # would make git look elsewhere than into the folder


def git(folder: Path, *arguments: str) -> str:
    """What git says in `folder`; its complaint, or that there is no git, is a `UserError`."""
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("git is not installed") from None
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


def head(project: Path) -> str:
    """The commit that a clone is at; `project` has to be the top folder of a git repository with one."""
    if Path(git(project, "rev-parse", "--show-toplevel").removesuffix("\n")) != project.resolve():
        raise UserError(f"{project} is not the top folder of its git repository; run in the project's folder")
    return git(project, "rev-parse", "--verify", "HEAD").strip()


def changed(project: Path) -> list[str]:
    """Files that git knows and that are not as they were committed."""
    return git(project, "diff", "--name-only", "--no-renames", "HEAD").splitlines()
