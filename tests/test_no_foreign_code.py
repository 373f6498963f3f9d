"""A model's folder is data: no code in it runs, nobody is asked, and nothing is started, sent, or written elsewhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import check_project
from tests.hostile import REFUSED, WAYS, Seen, guarded
from tests.wrong import both, good, tree

pytestmark = pytest.mark.slow
PROGRAM = """
import sys, torch
from pathlib import Path
import secateur
from secateur import Recipe, UserError
from secateur.artifacts import temporary
from secateur.checkpoint import Checkpoint
from secateur.export import export
from secateur.finetune.recipes import FineTuning
from secateur.finetune.train import finetune

work, tokens = Path(sys.argv[1]), torch.arange(48).reshape(3, 16)
texts = [" ".join(str(number) for number in range(96))] * 3

def everything(model, out):
    Checkpoint(model)
    whole, tokenizer = secateur.load(model, device="cpu")
    tokenizer.save_pretrained(out / "tokenizer")
    drawn = secateur.sample(texts, tokenizer, samples=2, length=16)
    secateur.perplexity(whole, drawn[0].long(), 16)
    secateur.calibrate(model, tokens, out / "statistics", device="cpu")
    secateur.gradients(model, tokens, out / "gradients", device="cpu")
    secateur.prune(model, Recipe("wanda", 0.5), out / "run", tokens=tokens, device="cpu")
    short = FineTuning(rank=2, batch=2, micro_batch=2, warmup=0)
    finetune(model, out / "run", tokens, out / "tuned", work=out / "work", settings=short, device="cpu", progress=False)
    export(model, out / "run", out / "exported")
    export(model, out / "run", out / "merged", out / "tuned", "masked_merge")

for folder in sys.argv[2:]:
    out = work / "out" / Path(folder).name
    out.mkdir(parents=True)
    try:
        everything(Path(folder), out)
        print(f"{Path(folder).name}: done")
    except UserError as error:
        print(f"{Path(folder).name}: refused: {error}")
"""
STOCK = """
import sys
from transformers import AutoConfig
AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
"""
ASKING = """
import sys
from transformers import AutoConfig
AutoConfig.from_pretrained(sys.argv[1])
"""


def clean(seen: Seen, work: Path) -> None:
    """Nothing of what must not happen happened."""
    assert seen.events == []
    assert not (work / "ran").exists(), (work / "ran").read_text()
    assert seen.unread == 6, "something read what was typed"
    assert "[y/N]" not in seen.words and "Traceback" not in seen.words, seen.words
    assert list((work / "hub").iterdir()) == [] and list((work / "tmp").iterdir()) == []


@pytest.fixture
def models(tiny_model: Callable[[str], Path], tmp_path: Path) -> dict[str, Path]:
    """A checkpoint for each way to bring code along, and one with all of them."""
    made = {}
    for name, change in {**WAYS, "all": both(*WAYS.values()), **REFUSED}.items():
        made[name] = good(tiny_model("llama"), tmp_path / "models" / name.replace(" ", "_"))
        change(made[name])
    return made


def test_the_library_runs_no_code_of_a_model(models: dict[str, Path], tmp_path: Path) -> None:
    before = tree(tmp_path / "models")
    seen = guarded(tmp_path, list(models.values()), "-c", PROGRAM, str(tmp_path), *map(str, models.values()))
    clean(seen, tmp_path)
    assert seen.code == 0, seen.words
    said = dict(line.replace("_", " ").split(": ", 1) for line in seen.words.splitlines() if ": " in line)
    assert {name for name, line in said.items() if line == "done"} == {*WAYS, "all"}, said
    assert {name for name, line in said.items() if line.startswith("refused")} == {*REFUSED}, said
    assert tree(tmp_path / "models") == before
    for made in tmp_path.glob("out/*/*/*"):
        assert not made.name.endswith((".py", ".bin", ".pt", ".pth")), made


def test_the_stages_run_no_code_of_a_model(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    root = check_project.make_project(tmp_path / "project", tiny_model("llama"))
    both(*WAYS.values())(root / "data" / "tiny")
    (tmp_path / "ran").unlink(missing_ok=True)
    tables = yaml.safe_load((root / "params.yaml").read_text())
    steps = [("download", key) for key in tables["download"]]
    steps += [("calibrate-stats", check_project.STATS), ("prune", check_project.RUN), ("eval-ppl", check_project.PPL)]
    steps += [("export", check_project.RUN, "--to", str(root / "exported")), ("verify", check_project.RUN)]
    hostile = [root / "data" / "tiny", root / "artifacts" / "models" / "tiny"]
    before = tree(root / "data")
    for step in steps:
        seen = guarded(tmp_path, hostile, "-m", "stages", *step, path=root, cwd=root)
        assert seen.code == 0, (step, seen.words)
        clean(seen, tmp_path)
    assert tree(root / "data") == before
    for made in (root / "artifacts" / "models" / "tiny", root / "exported"):
        assert not [name for name in tree(made) if name.endswith((".py", ".bin", ".pt", ".pth"))]


def test_the_guard_sees_code_that_runs(models: dict[str, Path], tmp_path: Path) -> None:
    model = models["family of its own"]
    seen = guarded(tmp_path, [model], "-c", STOCK, str(model))
    kinds = {event.split(" ")[0] for event in seen.events}
    assert {"open", "exec"} <= kinds, seen
    assert (tmp_path / "ran").exists() and list((tmp_path / "hub").iterdir())


def test_the_guard_sees_that_somebody_is_asked(models: dict[str, Path], tmp_path: Path) -> None:
    model = models["family of its own"]
    seen = guarded(tmp_path, [model], "-c", ASKING, str(model))
    assert any(event.startswith("builtins.input") for event in seen.events) and seen.unread < 6
    assert "[y/N]" in seen.words and (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("program", "event"),
    [
        ("import torch; torch.load(sys.argv[1] + '/pytorch_model.bin', weights_only=False)", "pickle.find_class"),
        ("import runpy; runpy.run_path(sys.argv[1] + '/setup.py')", "exec"),
        ("sys.path.insert(0, sys.argv[1]); import usercustomize", "exec"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("import os; os.system('true')", "os.system"),
        ("import socket; socket.getaddrinfo('192.0.2.1', 80)", "socket.getaddrinfo"),
        ("open(sys.argv[1] + '/../../../elsewhere', 'w')", "open"),
        ("import os; os.mkdir(sys.argv[1] + '/../../../made')", "os.mkdir"),
    ],
)
def test_the_guard_sees(program: str, event: str, models: dict[str, Path], tmp_path: Path) -> None:
    seen = guarded(tmp_path, [models["all"]], "-c", f"import sys; {program}", str(models["all"]))
    assert event in {line.split(" ")[0] for line in seen.events}, seen
