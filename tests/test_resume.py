"""Killed at any moment and started again, a run ends with the bytes of an undisturbed one."""

import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import secateur
from secateur import Recipe
from secateur.artifacts import identity, temporary
from secateur.masks import PrunedStore
from secateur.outputs import continue_or_start

PRUNE = """
import sys, torch, secateur
torch.set_num_threads(2)
model, out, method, propagation, update = sys.argv[1:]
tokens = torch.randint(0, 96, (64, 64), generator=torch.Generator().manual_seed(3), dtype=torch.int32)
statistics = None
if propagation == "dense":
    statistics = secateur.calibrate(model, tokens, out + "-stats", device="cpu")
secateur.prune(
    model,
    secateur.Recipe(method, 0.5, propagation=propagation, update=update),
    out,
    tokens=None if statistics else tokens,
    statistics=statistics,
    device="cpu",
)
"""


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough blocks, each slow enough, that a kill lands in the middle of the work."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("deep")
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=10,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def start(model: Path, out: Path, recipe: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PRUNE, str(model), str(out), *recipe]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "kills"),
    [
        (["sparsegpt", "site", "none"], 5),
        (["wanda", "dense", "none"], 2),
        (["wanda", "site", "reconstruct"], 2),
    ],
)
def test_kills_change_nothing(deep_model: Path, recipe: list[str], kills: int, tmp_path: Path) -> None:
    assert start(deep_model, tmp_path / "undisturbed", recipe).wait() == 0
    out, chance = tmp_path / "killed", random.Random(0)
    work = [temporary(out), temporary(tmp_path / "killed-stats")]
    resumed_from = []
    for kill in range(kills):
        process = start(deep_model, out, recipe)
        # Let it get further each time, then strike at a random moment of the next block.
        seen = [len(list(folder.rglob("block_*"))) for folder in work]
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            now = [len(list(folder.rglob("block_*"))) for folder in work]
            if sum(now) > sum(seen) + kill % 2:
                break
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.08))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists() or identity(out), "a folder under its final name is a finished one"
        for folder in filter(Path.exists, work):  # what safetensors leaves if the kill strikes while it writes
            (folder / f".tmp{kill}").write_bytes(b"half")
        resumed_from.append(PrunedStore(temporary(out)).blocks)
    assert start(deep_model, out, recipe).wait() == 0
    assert identity(out) == identity(tmp_path / "undisturbed")
    assert resumed_from == sorted(resumed_from), "a restart never loses a finished block"
    assert not temporary(out).exists()


def test_unfinished_work_on_another_model_is_not_continued(deep_model: Path, tmp_path: Path) -> None:
    """The same call with the same names, after the checkpoint was replaced."""
    tokens = torch.randint(0, 96, (4, 16), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    other, model = tmp_path / "other", tmp_path / "model"
    shutil.copytree(deep_model, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: tensor.flip(0) for name, tensor in weights.items()}, other / "model.safetensors", {"format": "pt"})
    shutil.copytree(deep_model, model)
    write = PrunedStore.write

    def write_three(self: PrunedStore, block: int, linears: Any) -> None:
        if block == 2:
            raise KeyboardInterrupt
        write(self, block, linears)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PrunedStore, "write", write_three)
        secateur.prune(model, Recipe("wanda", 0.5), tmp_path / "run", tokens=tokens, device="cpu")
    shutil.copyfile(other / "model.safetensors", model / "model.safetensors")
    secateur.prune(model, Recipe("wanda", 0.5), tmp_path / "run", tokens=tokens, device="cpu")
    secateur.prune(other, Recipe("wanda", 0.5), tmp_path / "expected", tokens=tokens, device="cpu")
    assert identity(tmp_path / "run") == identity(tmp_path / "expected")


def test_unfinished_work_of_other_settings_is_not_continued(deep_model: Path, tmp_path: Path) -> None:
    tokens = torch.zeros(2, 16, dtype=torch.int32)
    work = temporary(tmp_path / "run")
    secateur.prune(deep_model, Recipe("wanda", 0.5), tmp_path / "expected", tokens=tokens, device="cpu")
    stale = PrunedStore(tmp_path / "expected")
    continue_or_start(work, {"of": "other settings"})
    for index in range(3):
        PrunedStore(work).write(index, {path: linear for path, linear in stale.read(9 - index).items()})
    secateur.prune(deep_model, Recipe("wanda", 0.5), tmp_path / "run", tokens=tokens, device="cpu")
    assert identity(tmp_path / "run") == identity(tmp_path / "expected")
