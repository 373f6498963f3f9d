"""Give a finished stage to other clones: `python -m flows.share STAGE` in the project's folder.

`dvc push --run-cache` sends the entry but not the small results that git keeps (`cache: false`), so another clone could not
restore the stage. This sends every output first and the entries after them: an entry in the remote is always good.
"""

import sys
from pathlib import Path

from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo


def share(root: Path, name: str) -> int:
    """Push the outputs of a stage that is up to date, and the run-cache; returns how many files the remote did not have."""
    repo = Repo(str(root), _wait_for_lock=True)
    with repo.lock:
        (stage,) = repo.stage.collect(name)
        if not stage.deps:
            raise DvcException(f"{name} has no dependencies: DVC's run-cache cannot hold it")
        stage.save_deps()
        entry = repo.stage_cache._load(stage)  # as its `restore` does
        if entry is None:
            raise DvcException(f"{name} is not in the run-cache: run it here first")
        whole = repo.stage_cache._create_stage(entry, wdir=stage.wdir)
        pushed = 0
        for objects in whole.get_used_objs().values():
            result = repo.cloud.push(objects)
            if result.failed:
                raise DvcException(f"{len(result.failed)} files of {name} could not be pushed")
            pushed += len(result.transferred)
        repo.stage_cache.transfer(repo.cache.legacy, repo.cloud.get_remote_odb(hash_name="md5-dos2unix"), force=False)
    return pushed


if __name__ == "__main__":
    try:
        print(f"{share(Path.cwd(), sys.argv[1])} files pushed")
    except (DvcException, LockError, OSError) as error:
        sys.exit(f"ERROR: {error}")
