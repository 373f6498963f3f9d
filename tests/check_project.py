"""A small project that is real: this repository's code and dvc.yaml, a study of a tiny model and texts of its own, git, DVC."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from flows.drift import machine
from secateur.artifacts import SUMS
from tests.code_of import ROOT

STUDY = {
    "title": "tiny",
    "compute": {"threads": 1, "device": "cpu"},
    "assets": {
        "models": {"tiny": {"source": "file:data/tiny"}},
        "corpora": {"text": {"source": "file:data/text", "files": ["*.txt"], "reader": "text", "holdout": 4}},
    },
    "models": ["tiny"],
    "calibrations": {"text": {"corpus": "text", "split": "train", "sampler": "documents", "samples": 2, "length": 32, "seed": 0}},
    "runs": [{"calibration": "text", "method": "wanda", "sparsity": 0.5}],
    "perplexity": [{"corpus": "text", "split": "heldout", "length": 32, "windows": 4}],
}
RUN = "tiny--text--wanda--50--site"
STATS = "tiny--text--tokens"
PPL = f"{RUN}--text-32-w4"
MASKS = Path("artifacts/pruned") / RUN
METRIC = Path("results/ppl") / f"{PPL}.json"


def make_project(root: Path, tiny: Path) -> Path:
    """Everything but a state: code, study, model (the checkpoint `tiny` with a tokenizer of 96 words) and texts, in git."""
    for package in ("secateur", "stages", "pipelines", "flows"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("dvc.yaml", ".gitignore", ".gitattributes", ".dvcignore"):
        shutil.copy(ROOT / file, root / file)
    for folder in ("finetune", "ppl", "sparsity", "zeroshot"):
        (root / "results" / folder).mkdir(parents=True)
        (root / "results" / folder / ".gitkeep").touch()
    shutil.copytree(tiny, root / "data" / "tiny", ignore=shutil.ignore_patterns(SUMS))
    words = Tokenizer(models.WordLevel({str(number): number for number in range(96)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(root / "data" / "tiny")
    (root / "data" / "text").mkdir()
    for document in range(16):  # each has a few words of its own, so that it matters which documents a seed draws
        own = random.Random(document).choices(range(96), k=4)
        text = " ".join(str(word) for word in random.Random(document).choices(own, k=200))
        (root / "data" / "text" / f"{document:02d}.txt").write_text(text + "\n", encoding="utf-8")
    write_study(root)
    git(root, "init", "--quiet")
    git(root, "config", "user.email", "test@example.org")
    git(root, "config", "user.name", "test")
    dvc(root, "init", "--quiet")
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    python(root, "-m", "pipelines", "use", "tiny")
    return root


def write_study(root: Path, seed: int = 0) -> None:
    """The study, with another seed of its calibration."""
    calibration = STUDY["calibrations"]["text"] | {"seed": seed}
    text = yaml.safe_dump(STUDY | {"calibrations": {"text": calibration}}, sort_keys=False)
    (root / "pipelines" / "tiny.yaml").write_text(text, encoding="utf-8")


def make_state(root: Path) -> None:
    """Run the pipeline as a user does, note the fingerprint, commit."""
    dvc(root, "repro")
    machine.write(root)
    commit(root)


def copy_project(root: Path, to: Path) -> Path:
    """A project of one's own with the same state, DVC's cache included."""
    shutil.copytree(root, to, symlinks=True)
    return to


def commit(root: Path) -> None:
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", "--message", "state")


def git(root: Path, *arguments: str) -> str:
    return _run(root, "git", *arguments)


def dvc(root: Path, *arguments: str) -> str:
    return python(root, "-m", "dvc", *arguments)


def python(root: Path, *arguments: str) -> str:
    return _run(root, sys.executable, *arguments)


def _run(root: Path, *command: str) -> str:
    """What a command prints; what it says to its end if it fails."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(root), "DVC_SITE_CACHE_DIR": str(root / ".dvc" / "tmp" / "site")}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
