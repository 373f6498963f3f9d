"""A fine-tuning that was killed ends with the bytes of an undisturbed one; two processes train one adapter."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import secateur
from secateur import Recipe
from secateur.artifacts import check_folder, identity, read_json
from secateur.finetune.checkpoints import last_whole
from secateur.finetune.load import finetuned
from secateur.finetune.origin import Origin
from tests.test_finetune import SETTINGS, STEPS, gain, texts, tune, zeros_are_the_mask

ROOT = Path(__file__).parent.parent
TRAIN = """
import sys, torch
from pathlib import Path
from dataclasses import replace
from secateur.finetune.train import finetune
from tests.test_finetune import SETTINGS, texts
torch.set_num_threads(2)
model, run, out, train, interval, dropout = sys.argv[1:]
settings = replace(SETTINGS, train=train, interval=int(interval), dropout=float(dropout))
others = {"work": Path(out + "-work"), "held_out": texts(4, first=5), "device": "cpu"}
finetune(Path(model), Path(run), texts(24), Path(out), settings=settings, **others)
"""


def command(model: Path, run: Path, out: Path, train: str, interval: int, dropout: float = 0.1) -> list[str]:
    return ["-c", TRAIN, str(model), str(run), str(out), train, str(interval), str(dropout)]


@pytest.fixture(scope="module")
def run(tiny_model: Callable[[str], Path], tokens: Tensor, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny LLaMA, and a run on it."""
    model = tiny_model("llama")
    return model, secateur.prune(
        model, Recipe("wanda", 0.5), tmp_path_factory.mktemp("runs") / "run", tokens=tokens, device="cpu"
    )


class Killed(Exception):
    """Stands in for the kill where a new process would cost too much time."""


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int | None) -> list[int]:
    """Count passes of examples through the model; the one behind `after` ends the training."""
    from secateur.finetune.trainer import FineTuner

    passes: list[int] = []
    own = FineTuner.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        if len(passes) == after:
            raise Killed
        passes.append(len(passes))
        return own(self, *args, **kwargs)

    monkeypatch.setattr(FineTuner, "training_step", step)
    return passes


@pytest.mark.parametrize(
    ("train", "changes"),
    [
        ("lora", {}),
        ("masked_lora", {"interval": 3, "dropout": 0.3}),  # the checkpoint stands at the end of an epoch
        ("masked_lora", {"keep": "best", "interval": 1, "epochs": 3}),
        ("dense", {}),
    ],
)
def test_an_interrupted_training_continues(
    train: str, changes: dict[str, Any], run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, train=train, **changes)
    expected = tune(*run, tmp_path / "undisturbed", settings)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, after=2 * 7 + 1)  # in the middle of the eighth step: two passes make a batch
        tune(*run, tmp_path / "killed", settings)
    assert not (tmp_path / "killed").exists()
    checkpoints = tmp_path / "killed-work" / "checkpoints"
    whole = last_whole(checkpoints)
    assert whole is not None
    half = checkpoints / "checkpoint-11"  # as a kill leaves it while it is being written
    shutil.copytree(whole, half, ignore=shutil.ignore_patterns("SHA256SUMS", "optimizer.pt"))
    with monkeypatch.context() as patch:
        passes = interrupt(patch, after=None)
        assert tune(*run, tmp_path / "killed", settings) == expected
    steps = read_json(tmp_path / "undisturbed" / "outcome.json")["steps"]
    assert len(passes) == 2 * (steps - int(whole.name.rpartition("-")[2])), "finished steps are not done again"
    assert identity(tmp_path / "killed") == identity(tmp_path / "undisturbed")


def test_a_training_that_was_killed_at_its_very_end_is_only_sealed(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("secateur.finetune.train.seal_folder", lambda *_: (_ for _ in ()).throw(Killed))
        tune(*run, tmp_path / "killed")
    with monkeypatch.context() as patch:
        passes = interrupt(patch, after=None)
        tune(*run, tmp_path / "killed")
    tune(*run, tmp_path / "undisturbed")
    assert passes == [] and identity(tmp_path / "killed") == identity(tmp_path / "undisturbed")


@pytest.mark.parametrize("changed", ["settings", "examples", "run"])
def test_work_of_another_training_is_not_continued(
    changed: str, run: tuple[Path, Path], tokens: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, after=2 * 7)
        tune(*run, tmp_path / "run")
    model, source = run
    settings, others = SETTINGS, {}
    if changed == "settings":
        settings = replace(SETTINGS, rate=0.01)
    elif changed == "examples":
        others = {"examples": texts(24, first=2)}
    else:
        source = secateur.prune(model, Recipe("magnitude", 0.5), tmp_path / "magnitude", tokens=tokens, device="cpu")
    with monkeypatch.context() as patch:
        passes = interrupt(patch, after=None)
        tune(model, source, tmp_path / "run", settings, **others)
    assert len(passes) == 2 * STEPS


@pytest.fixture(scope="module")
def slow_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Large enough that a kill lands in the middle of a step or of a checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("deep") / "model"
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder, secateur.prune(folder, Recipe("wanda", 0.5), folder.with_name("run"), tokens=texts(8), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize(("train", "kills"), [("masked_lora", 3), ("dense", 2)])
def test_kills_change_nothing(train: str, kills: int, slow_run: tuple[Path, Path], tmp_path: Path) -> None:
    def start(out: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *command(*slow_run, out, train, 1)], stderr=subprocess.DEVNULL, cwd=ROOT)

    assert start(tmp_path / "undisturbed").wait() == 0
    out, chance = tmp_path / "killed", random.Random(0)
    checkpoints = Path(f"{out}-work") / "checkpoints"

    def newest() -> int:
        return max((int(path.name.rpartition("-")[2]) for path in checkpoints.glob("checkpoint-*")), default=0)

    resumed_from = []
    for kill in range(kills):
        process, seen = start(out), newest()
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and newest() <= seen + kill % 2:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists() or check_folder(out) == []
        resumed_from.append(newest())
    assert resumed_from == sorted(resumed_from) and resumed_from[-1] > 0
    assert start(out).wait() == 0
    assert identity(out) == identity(tmp_path / "undisturbed")
    assert not checkpoints.parent.exists()


@pytest.mark.slow
@pytest.mark.parametrize("train", ["masked_lora", "dense"])
def test_two_processes_train_one_adapter(train: str, run: tuple[Path, Path], tmp_path: Path) -> None:
    model, source = run
    out = tmp_path / "two"
    (tmp_path / "train.py").write_text(TRAIN)
    arguments = command(model, source, out, train, 5, dropout=0.0)[2:]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0"]
    done = subprocess.run(
        [*launch, str(tmp_path / "train.py"), *arguments], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert check_folder(out) == [] and not Path(f"{out}-work").exists()
    mode = {"masked_lora": "masked_training", "dense": "dense"}[train]
    zeros_are_the_mask(finetuned(model, source, out, mode, device="cpu"), Origin(model, source))
    curve = tune(model, source, tmp_path / "one", replace(SETTINGS, train=train, dropout=0.0, micro_batch=4))
    rows = [line.split(",") for line in (out / "loss.csv").read_text().splitlines()[1:]]
    assert gain(curve) < 0.8
    for row, (step, loss, _, perplexity) in zip(rows, curve, strict=True):
        assert int(row[0]) == step
        assert loss is None or float(row[1]) == pytest.approx(loss, rel=1e-2)
        assert perplexity is None or float(row[3]) == pytest.approx(perplexity, rel=1e-2)


def environment() -> dict[str, str]:
    """This process's, with the project's own packages to be imported by a script elsewhere."""
    import os

    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
