"""Folders of another kind, odd names, devices, and places that cannot be written: one line each, and no file is touched."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from secateur import Recipe, UserError
from secateur.artifacts import read_tensors
from tests.conftest import LLAMA
from tests.wrong import ENTRIES, Answer, a_pipe, answers, check, cut, load, refusal, text, tree, tune, without
from tests.wrong_calls import Call, Place, allocate, assemble, calibrate, exported, furnished, prune, row, tuning

pytestmark = pytest.mark.timeout(60)
DENSE, LONG = Recipe("wanda", 0.5, propagation="dense"), "m" * 250

DEVICE = "a RuntimeError of torch"
LATE = "seen only when the work folder is made, which stays behind (.out.partial)"
DENIED = "a PermissionError of the system"
LINES = "a name with a line break makes a message of two lines"

FOLDERS = [
    row("model missing", prune(model="modle"), "modle does not exist"),
    row("model a file", prune(model="model/config.json"), "config.json is a file"),
    row("model a run", prune(model="run"), "run", "no config.json"),
    row("model statistics", assemble("statistics"), "statistics", "no config.json"),
    row("model a fine-tuning", assemble("tuned"), "tuned", "adapter"),
    row("model an empty folder", assemble("empty"), "empty has no config.json"),
    row("model the place itself", assemble("."), "sub-folder", "model"),
    row("model in a file", assemble("model/config.json/model"), "config.json"),
    row("model an export", assemble("exported")),
    row("run a model", assemble(pruned="model"), "model"),
    row("run missing", assemble(pruned="rnu"), "rnu"),
    row("run statistics", assemble(pruned="statistics"), "statistics"),
    row("run of fewer blocks", assemble(pruned="half"), "half holds 2", "3"),
    row("run cut", assemble(pruned="cut"), "block_001.safetensors"),
    row("run of another model", assemble("wider", "run"), "run: block 0", "the model's (64, "),
    row("run without masks in its header", assemble(pruned="headless"), "block_000.safetensors"),
    row("statistics a model", prune(DENSE, None, statistics="model"), "model", "SHA256SUMS"),
    row("statistics missing", prune(DENSE, None, statistics="stats"), "stats"),
    row("statistics a run", prune(DENSE, None, statistics="run"), "run", "bundle"),
    row(
        "statistics with too little", prune(Recipe("sparsegpt", 0.5, propagation="dense"), None, statistics="statistics"), "gram"
    ),
    row("statistics gradients", prune(DENSE, None, statistics="gradients"), "gradients"),
    row("gradients statistics", prune(Recipe("pruner_zero", 0.5), gradients="statistics"), "statistics"),
    row("gradients a model", prune(Recipe("pruner_zero", 0.5), gradients="model"), "model"),
    row("allocate: statistics a model", allocate(statistics="model"), "model"),
    row("export: run a model", exported("model"), "model"),
    row("export: run missing", exported("rnu"), "rnu"),
    row("export: tuned a run", exported("run", "run", "masked_merge"), "run holds no fine-tuning"),
    row("export: tuned a model", exported("run", "model", "masked_merge"), "model"),
    row("export: tuned without mode", exported("run", "tuned"), "mode"),
    row("export: mode unknown", exported("run", "tuned", "merged"), "'merged'"),
    row("export: mode of another training", exported("run", "tuned", "dense"), "'dense'", "lora"),
    row("export: mode that fills zeros", exported("run", "tuned", "unmerged"), "'unmerged'", "masked_merge"),
    row("export: tuned on another run", exported(None, "tuned", "masked_merge"), "tuned", "another run"),
    row("export: dtype", exported("run", dtype="bf16"), "'bf16'", "bfloat16"),
    row("export: dtype of 8 bits", exported("run", dtype="int8"), "'int8'"),
    row("export: shard of nothing", exported("run", shard=0)),
    row("calibrate: bundle", calibrate(bundle="grams"), "'grams'", "gram"),
    row("device unknown", prune(device="gpu"), "'gpu'", "cuda"),
    row("device empty", prune(device=""), "''"),
    row("device not here", prune(device="cuda:99"), "'cuda:99'"),
    row("device without memory", prune(device="meta"), "'meta'"),
    row("device of another build", assemble(device="xla"), "'xla'"),
    row("device not here either", assemble(device="mps"), "'mps'"),
]

OUTS = [
    row("out the model", prune(out="model"), "model is"),
    row("out in the model", prune(out="model/out"), "lies inside"),
    row("out around the model", prune(out="."), "contains"),
    row("out a file", prune(out="note.txt"), "note.txt exists already"),
    row("out in a file", prune(out="note.txt/out"), "note.txt is not a folder"),
    row("out a link", prune(out="link"), "link is a link"),
    row("out through a link into the model", prune(out="link/out"), "lies inside"),
    row("out a link to nothing", prune(out="nowhere"), "nowhere is a link"),
    row("out exists", prune(out="run"), "run exists already"),
    row("out empty", prune(out="empty"), "empty exists already"),
    row("out too long", prune(out="x" * 256), "too long"),
    row("out too long while it is made", prune(out=LONG), "too long"),
    row("out with a zero byte", prune(out="a\0b"), "a\\x00b"),
    row("out of many lines exists", prune(out="a\nb"), "a\\nb exists already"),
    row("out in a pipe", prune(out="pipe/out"), "pipe is not a folder"),
    row("export to a file", exported(to="note.txt"), "note.txt exists already"),
    row("export to nowhere", exported(to="no/such/place"), "no/such is not a folder"),
    row("export onto the run", exported("run", to="run/out"), "lies inside"),
    row("export over somebody's", exported(to="empty", overwrite=True)),
    row("fine-tuning into the run", tuning(pruned="run", out="run/tuned"), "lies inside"),
]

PLAIN = ["a b", "é", "[a-z]*?", "-rf", "'\"$(x)", "%s{}", "a#b::c", "~", "名", LONG, "/".join(["d" * 100] * 30)]
NAMES = [*map(Answer, PLAIN), Answer("a\nb")]


@pytest.fixture(scope="module")
def base(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place with one of everything."""
    place = furnished(tmp_path_factory.mktemp("place"), tiny_model("llama"))
    for name in ("half", "cut", "headless"):
        shutil.copytree(place / "run", place / name)
    without("block_002.safetensors")(place / "half" / "masks")
    cut("block_001.safetensors")(place / "cut" / "masks")
    masks, _ = read_tensors(place / "run" / "masks" / "block_000.safetensors")
    save_file(masks, place / "headless" / "masks" / "block_000.safetensors")
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA | {"hidden_size": 64})).save_pretrained(
        place / "wider"
    )
    return place


@pytest.fixture
def place(base: Place, tmp_path: Path) -> Place:
    """A copy of it, with what else may lie in a folder."""
    place = Place(shutil.copytree(base.root, tmp_path / "place"))
    for name in ("empty", "a\nb"):
        (place / name).mkdir()
    text("note.txt", "mine")(place.root)
    a_pipe("pipe")(place.root)
    (place / "link").symlink_to("model")
    (place / "nowhere").symlink_to("gone")
    return place


@answers([*FOLDERS, *OUTS])
def test_a_place(row: Call, place: Place) -> None:
    check(row, lambda: row.call(place), place.root)


@answers(NAMES)
def test_a_model_may_be_called_anything(row: Answer, base: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Path(row.name)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base / "model", model)
    before = tree(model)
    for entry, done in ENTRIES.items():
        done(model, Path(entry))
    tune(model, Path("tuned"))
    assert tree(model) == before
    (model / "model.safetensors").unlink()
    assert "no weights" in refusal(lambda: load(model, Path("out")), tmp_path)


UNREADABLE = [
    Answer("config.json"),
    Answer("model.safetensors"),
    Answer("tokenizer.json"),
    Answer("generation_config.json"),
    Answer("."),
]


@answers(UNREADABLE)
def test_what_may_not_be_read_is_said(row: Answer, base: Place) -> None:
    with TemporaryDirectory() as folder:
        place = Path(folder)
        model = Path(shutil.copytree(base / "model", place / "model"))
        place.chmod(0o755)
        (model / row.name).chmod(0)
        with nobody(), pytest.raises(UserError) as raised:
            load(model, place / "out")
        model.chmod(0o755)
        assert str(model / row.name) in str(raised.value) and str(raised.value).isprintable()


@contextmanager
def nobody() -> Iterator[None]:
    """Nobody in particular, since the superuser reads everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
