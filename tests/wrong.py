"""A good checkpoint, ways to spoil it, and a look at everything below a folder: what the tests of wrong inputs share."""

import json
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import secateur
from secateur import Recipe, UserError
from secateur.artifacts import SUMS, temporary
from secateur.export import export
from secateur.finetune.recipes import FineTuning
from secateur.finetune.train import finetune

TOKENS = torch.randint(0, 96, (4, 16), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DROP: Any = object()
Change = Callable[[Path], object]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 269060552\n"


@dataclass(frozen=True)
class Answer:
    """What becomes of an input: parts of the one line that refuses it (none: it is accepted), and what is wrong with our answer
    for now."""

    name: str
    says: tuple[str, ...] = ()
    fault: str = ""


def answers(table: Sequence[Answer]) -> Any:
    """A test for every row; one with a fault is expected to fail."""
    failing = {row.name: [pytest.mark.xfail(strict=True, reason=row.fault)] for row in table if row.fault}
    named = [pytest.param(row, id=repr(row.name[:60])[1:-1], marks=failing.get(row.name, [])) for row in table]
    return pytest.mark.parametrize("row", named)


def good(tiny: Path, folder: Path) -> Path:
    """A copy of a tiny checkpoint with a tokenizer of 96 words, as somebody saved it."""
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns(SUMS))
    words = Tokenizer(models.WordLevel({str(number): number for number in range(96)}, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0").save_pretrained(folder)
    return folder


def tree(root: Path) -> dict[str, tuple[int, bytes | str | None]]:
    """All that lies below a folder: modes (with the kind of file), contents of files, and where links lead."""

    def content(path: Path, mode: int) -> bytes | str | None:
        return str(path.readlink()) if stat.S_ISLNK(mode) else path.read_bytes() if stat.S_ISREG(mode) else None

    modes = {path: path.lstat().st_mode for path in sorted(root.rglob("*"))}
    return {path.relative_to(root).as_posix(): (mode, content(path, mode)) for path, mode in modes.items()}


@contextmanager
def untouched(root: Path) -> Iterator[None]:
    """Nothing below the folder is written, removed or changed."""
    before = tree(root)
    yield
    after = tree(root)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == []


def refusal(action: Callable[[], object], root: Path) -> str:
    """The one line that refuses `action`, which touches nothing below `root`."""
    with untouched(root), pytest.raises(UserError) as raised:
        action()
    message = str(raised.value)
    assert message.isprintable(), message
    return message


def check(row: Answer, action: Callable[[], object], root: Path) -> None:
    """`action` is refused as the row says, or accepted."""
    if not row.says:
        action()
        return
    message = refusal(action, root)
    assert all(part in message for part in row.says), message


# ---- what is asked of the library


def prune(model: Path, out: Path, **others: Any) -> None:
    secateur.prune(model, Recipe("magnitude", 0.5), out, device="cpu", **others)


def load(model: Path, out: Path) -> None:
    secateur.load(model, device="cpu")


def plain(model: Path, out: Path, **others: Any) -> None:
    export(model, None, out, **others)


def tune(model: Path, out: Path, pruned: Path | None = None, tokens: Any = TOKENS, device: str = "cpu", **settings: Any) -> None:
    short = FineTuning(**{"rank": 2, "batch": 4, "micro_batch": 2, "warmup": 0, **settings})
    finetune(model, pruned, tokens, out, work=temporary(out), settings=short, device=device, progress=False)


ENTRIES: dict[str, Callable[[Path, Path], None]] = {"prune": prune, "load": load, "export": plain}


# ---- ways to spoil a checkpoint


def both(*changes: Change) -> Change:
    """One after the other."""
    return lambda folder: [change(folder) for change in changes]


def text(name: str, content: str | bytes) -> Change:
    """A file with this content."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def entries(name: str, **changes: Any) -> Change:
    """A JSON file with some entries changed, or dropped."""

    def change(folder: Path) -> None:
        value = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: entry for key, entry in value.items() if entry is not DROP}))

    return change


def config(**changes: Any) -> Change:
    return entries("config.json", **changes)


def cut(name: str) -> Change:
    """The first half of a file."""
    return lambda folder: (folder / name).write_bytes((content := (folder / name).read_bytes())[: len(content) // 2])


def without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def renamed(old: str, new: str) -> Change:
    return lambda folder: (folder / old).rename(folder / new)


def linked(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def a_folder(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return change


def a_pipe(name: str) -> Change:
    """Whoever opens it to read waits for ever."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def tensors(edit: Callable[[dict[str, Tensor]], object]) -> Change:
    """The weights, edited in place as a dictionary by name."""

    def change(folder: Path) -> None:
        edit(held := load_file(folder / SINGLE))
        save_file(held, folder / SINGLE)

    return change


def header(edit: Callable[[dict[str, Any]], object], length: int = 0) -> Change:
    """The header of the weights, edited in place, or said to be `length` bytes longer than it is; the numbers stay."""

    def change(folder: Path) -> None:
        content = (folder / SINGLE).read_bytes()
        end = 8 + struct.unpack("<Q", content[:8])[0]
        edit(value := json.loads(content[8:end]))
        made = json.dumps(value).encode()
        (folder / SINGLE).write_bytes(struct.pack("<Q", len(made) + length) + made + content[end:])

    return change


def sharded(**index: str) -> Change:
    """Two shards with their index, in which `index` says where some tensors lie."""

    def change(folder: Path) -> None:
        held = load_file(folder / SINGLE)
        (folder / SINGLE).unlink()
        half = len(held) // 2
        parts = {"a.safetensors": list(held)[:half], "b.safetensors": list(held)[half:]}
        for file, names in parts.items():
            save_file({name: held[name] for name in names}, folder / file)
        table = {name: file for file, names in parts.items() for name in names} | index
        (folder / INDEX).write_text(json.dumps({"weight_map": table}))

    return change
