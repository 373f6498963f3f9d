"""`python -m flows check` on a small real project: the state that was committed, and states that somebody tampered with."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from flows.drift import machine
from secateur.artifacts import write_json, write_sums
from secateur.masks import PrunedLinear, PrunedStore
from tests.check_project import (
    MASKS,
    METRIC,
    PPL,
    RUN,
    STATS,
    commit,
    copy_project,
    dvc,
    git,
    make_project,
    make_state,
    python,
    write_study,
)

TinyModel = Callable[[str], Path]
WANTED = ["--target", f"eval-ppl@{PPL}"]


@pytest.fixture(scope="session")
def original(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with its state, from a real `dvc repro`. Do not write into it."""
    root = make_project(tmp_path_factory.mktemp("check") / "original", tiny_model("llama"))
    make_state(root)
    return root


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Path:
    return copy_project(original, tmp_path / "project")


def check(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it, with temporary files where the test can see them."""
    scratch = root.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "flows", "check", *options]
    environment = os.environ | {"TMPDIR": str(scratch)}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def rows(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """The table that was printed: stage, what, before, after, verdict, note."""
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def reseal(root: Path) -> None:
    """Make dvc.lock record what lies here, without running anything, and commit: what a cheat, or a mistake, does."""
    dvc(root, "commit", "--force")
    commit(root)


def edit_perplexity(root: Path, factor: float) -> None:
    result = json.loads((root / METRIC).read_text())
    result["perplexity"] *= factor
    write_json(root / METRIC, result)


@pytest.mark.slow
def test_a_committed_state_can_be_had_again(project: Path) -> None:
    done = check(project, "--table", "drift.md")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "7 stages, 11 outputs: all equal, bit for bit"
    assert done.stdout.count("Running stage") == 7
    assert "all equal, bit for bit" in (project / "drift.md").read_text()
    assert not list((project.parent / "scratch").glob("secateur-check-*")), "the clone was left behind"
    git(project.parent, "clone", "--quiet", str(project), "fresh")
    fast = check(project.parent / "fresh", "--fast")  # as in CI: no artifact is there, and none is needed
    assert fast.returncode == 0 and "nothing to run" in fast.stdout, fast.stdout + fast.stderr


@pytest.mark.slow
def test_one_byte_of_a_committed_metric(project: Path) -> None:
    file = project / METRIC
    content = bytearray(file.read_bytes())
    content[content.index(b".", content.index(b'"perplexity"')) + 1] ^= 1  # another digit
    file.write_bytes(content)
    commit(project)
    done = check(project, *WANTED)
    assert done.returncode == 1, done.stdout + done.stderr
    named = {(what, verdict) for _, what, _, _, verdict, _ in rows(done)}
    assert named == {(METRIC.as_posix(), "not as dvc.lock says"), (f"{METRIC.as_posix()}: perplexity", "differs")}
    assert done.stdout.splitlines()[-1] == "5 stages, 6 outputs: drift: 2 differences in 1 stage"
    fast = check(project, "--fast")
    assert fast.returncode == 1 and METRIC.as_posix() in fast.stdout


@pytest.mark.slow
def test_a_seed(project: Path) -> None:
    write_study(project, seed=1)
    python(project, "-m", "pipelines", "use", "tiny")
    commit(project)
    fast = check(project, "--fast")
    assert fast.returncode == 1 and f"calibrate-stats@{STATS}" in fast.stdout
    done = check(project, *WANTED)
    assert done.returncode == 1, done.stdout + done.stderr
    found = rows(done)
    assert [f"calibrate-stats@{STATS}", f"parameter stats.{STATS}.seed", "0", "1", "differs", ""] in found
    assert f"artifacts/stats/{STATS}" in {row[1] for row in found}
    (masks,) = (row for row in found if row[1] == MASKS.as_posix())
    assert "mask entries agree" in masks[5]
    assert f"{METRIC.as_posix()}: perplexity" in {row[1] for row in found}
    assert not any(row[0].startswith("download") for row in found)


def tamper(root: Path) -> int:
    """Turn one bit of a mask over and seal the folder again; how many entries all masks have."""
    store = PrunedStore(root / MASKS)
    shutil.copytree(root / MASKS, copy := root.parent / "masks")  # DVC's links into its cache must not be written through
    shutil.rmtree(root / MASKS)
    shutil.copytree(copy, root / MASKS)
    for file in (root / MASKS).rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    linears = store.read(1)
    name = next(iter(linears))
    mask = linears[name].mask.clone()
    mask[0, 0] = ~mask[0, 0]
    store.write(1, linears | {name: PrunedLinear(mask)})
    write_sums(root / MASKS)
    return sum(linear.mask.numel() for block in range(store.blocks) for linear in store.read(block).values())


@pytest.mark.slow
def test_a_mask(project: Path) -> None:
    entries = tamper(project)
    reseal(project)
    assert check(project, "--fast").returncode == 0, "the cheat is not perfect, and the test shows less than it should"
    done = check(project, *WANTED)
    assert done.returncode == 1, done.stdout + done.stderr
    ((stage, what, _, _, verdict, note),) = rows(done)
    assert (stage, what, verdict) == (f"prune@{RUN}", MASKS.as_posix(), "differs")
    percent = int((entries - 1) / entries * 1e6) / 1e4
    assert note == f"{percent:.4f} % of {entries:,} mask entries agree, 1 differs"


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "code", "verdict"), [(1.001, 0, "within tolerance"), (1.05, 1, "out of tolerance")])
def test_another_machine_has_tolerances(project: Path, factor: float, code: int, verdict: str) -> None:
    fingerprint = json.loads((project / machine.FINGERPRINT).read_text())
    write_json(project / machine.FINGERPRINT, fingerprint | {"processor": "abacus"})
    edit_perplexity(project, factor)
    reseal(project)
    done = check(project, *WANTED)
    assert done.returncode == code, done.stdout + done.stderr
    ((_, what, _, _, said, _),) = rows(done)
    assert (what, said) == (f"{METRIC.as_posix()}: perplexity", verdict)
    assert "processor abacus → " in done.stdout


@pytest.mark.slow
def test_a_state_is_accepted_from_a_clean_run_only(project: Path) -> None:
    write_study(project, seed=1)
    python(project, "-m", "pipelines", "use", "tiny")
    refused = check(project, "--accept")
    assert refused.returncode == 2 and "params.yaml" in refused.stderr and len(refused.stderr.splitlines()) == 1
    (project / "results" / "ppl" / "nobody.json").write_text("{}\n")
    (project / machine.FINGERPRINT).unlink()
    commit(project)
    done = check(project, "--accept", "--keep")
    assert done.returncode == 0, done.stdout + done.stderr
    clone = Path(done.stdout.partition("the clone is ")[2].splitlines()[0])
    for name in ("dvc.lock", METRIC):
        assert (project / name).read_bytes() == (clone / name).read_bytes()
    assert f"stats.{STATS}.seed" in done.stdout
    assert not (project / "results" / "ppl" / "nobody.json").exists()
    assert yaml.safe_load((project / "dvc.lock").read_text()) != yaml.safe_load(git(project, "show", "HEAD:dvc.lock"))
    assert json.loads((project / machine.FINGERPRINT).read_text()) == machine.here(project)
    dvc(project, "checkout", "--force")  # every object that the new lock names is in the project's cache
    assert "up to date" in dvc(project, "status")
    commit(project)
    assert check(project, "--fast").returncode == 0


@pytest.mark.slow
def test_a_run_that_fails_is_no_state(project: Path) -> None:
    for file in (project / "data" / "text").iterdir():
        file.unlink()
    commit(project)
    done = check(project, *WANTED)
    assert done.returncode == 1
    assert "the run failed" in done.stderr.splitlines()[-1]


def test_bad_input_is_one_line(original: Path, tmp_path: Path) -> None:
    for root, options, said in (
        (original, ["--target", f"eval-ppl@{PPL}x"], f"did you mean eval-ppl@{PPL}"),
        (original, ["--accept", "--target", "prune"], "--accept needs a full run"),
        (original, ["--fast", "--keep"], "--fast runs nothing"),
        (original, ["--table", str(original)], "must be a file in a folder that can be written"),
        (original / "data", [], "not the top folder of its git repository"),
        (tmp_path, [], "not a git repository"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "flows", "check", *options],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(original), "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_the_fingerprint_has_the_threads_of_the_study(original: Path) -> None:
    """Also on this repository: what is committed has the form of what is compared with it."""
    threads = torch.get_num_threads()
    assert machine.here(original)["threads"] == "1"
    assert torch.get_num_threads() == threads
    here = machine.here(Path.cwd())
    assert machine.committed(Path.cwd()).keys() == here.keys()
