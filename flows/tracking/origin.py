"""The commit that results belong to, and the environment they were tracked in."""

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from flows.repository import git
from secateur.errors import UserError

COMMIT, COMMITTED = "mlflow.source.git.commit", "secateur.committed"
PACKAGES = ("torch", "transformers", "safetensors", "datasets", "lm-eval", "peft", "accelerate", "dvc", "mlflow")


def commit_tags() -> dict[str, str]:
    """HEAD, and whether it holds params.yaml, dvc.lock and results/ as they are; nothing outside of a git repository."""
    try:
        commit = git(Path.cwd(), "rev-parse", "HEAD").strip()
        changed = git(Path.cwd(), "status", "--porcelain", "--", "params.yaml", "dvc.lock", "results")
    except UserError as error:
        if any((folder / ".git").exists() for folder in (Path.cwd(), *Path.cwd().parents)):
            typer.echo(f"note: no commit is tracked: {error}", err=True)
        return {}
    return {COMMIT: commit, COMMITTED: str(not changed).lower()}


def commit_is_late(tags: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether a run was tracked before its results were committed, and they are now."""
    return tags.get(COMMITTED) != "true" and now.get(COMMITTED) == "true"


def environment() -> str:
    """Versions of Python and of what the stages compute with, on this machine, as JSON."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    here = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    return json.dumps(here | {"packages": packages}, indent=1)
