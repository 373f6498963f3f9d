"""A finished stage on its way between clones: `python -m flows.share push STAGE`, or `fetch`, in the project's folder.

`dvc push --run-cache` sends entries of everything that ever ran here and not the small results that git keeps (`cache: false`),
so another clone could not restore a stage. `push` sends every output of one stage, and then its own entry: what an entry in the
remote names is always there. `fetch` restores a stage from its entry, and never computes it.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvc import fs
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.stage.cache import RunCacheNotFoundError, _get_cache_hash, _get_stage_hash
from dvc.stage.serialize import to_single_stage_lockfile

LEGACY = "md5-dos2unix"  # where DVC keeps the run-cache, in the cache and in a remote


def push(repo: Repo, name: str) -> str:
    """Give a stage that is up to date here to the remote."""
    stage = _one(repo, name)
    if not stage.deps:
        raise DvcException(f"{name} has no dependencies: DVC's run-cache cannot hold it")
    if stage.changed():
        raise DvcException(f"{name} is not up to date here: run it first")
    stage.save()  # in the cache of a new clone there is nothing yet of results that came with git
    entry = to_single_stage_lockfile(stage)
    path = repo.stage_cache._get_cache_path(_get_stage_hash(stage), _get_cache_hash(entry))  # as DVC's own `save` names it
    pushed = 0
    for objects in repo.stage_cache._create_stage(entry, wdir=stage.wdir).get_used_objs().values():
        result = repo.cloud.push(objects)
        if result.failed:
            raise DvcException(f"{len(result.failed)} files of {name} could not be pushed")
        pushed += len(result.transferred)
    here, there = repo.cache.legacy, repo.cloud.get_remote_odb(hash_name=LEGACY)
    to = there.fs.join(there.path, *here.fs.parts(here.fs.relpath(path, here.path)))
    there.fs.makedirs(there.fs.parent(to), exist_ok=True)
    fs.generic.copy(here.fs, path, there.fs, to)
    return f"{name}: {pushed} files pushed"


def fetch(repo: Repo, name: str) -> str:
    """Have what the remote has of a stage in the workspace; `dvc repro` then finds it in the run-cache."""
    stage = _one(repo, name)
    repo.stage_cache.pull(None)
    try:
        repo.stage_cache.restore(stage, pull=True)
    except RunCacheNotFoundError:
        raise DvcException(f"{name}: the remote has no result for what this clone has as its inputs") from None
    return f"{name}: restored"


def _one(repo: Repo, name: str) -> Any:
    found = list(repo.stage.collect(name))
    if len(found) != 1:
        raise DvcException(f"{name} is {len(found)} stages: name one, such as prune@KEY")
    return found[0]


DO: dict[str, Callable[[Repo, str], str]] = {"push": push, "fetch": fetch}


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in DO:
        print(f"error: two arguments: {' or '.join(DO)}, and a stage such as prune@KEY", file=sys.stderr)
        sys.exit(2)
    try:
        repo = Repo(str(Path.cwd()), _wait_for_lock=True)
        with repo.lock:
            print(DO[sys.argv[1]](repo, sys.argv[2]))
    except (DvcException, LockError, OSError) as error:
        sys.exit(f"ERROR: {error}")
