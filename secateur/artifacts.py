"""Files and folders that are either whole or absent, and the checksums that name them.

Everything is written under a temporary name beside its target and renamed when it is complete, so a process killed at
any moment leaves nothing that could be mistaken for a result. A finished folder carries a `SHA256SUMS` file in the format
of coreutils (`sha256sum -c SHA256SUMS` checks it); the digest of that file is the folder's identity in provenance records.
"""

import hashlib
import json
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SUMS = "SHA256SUMS"


def sha256(path: Path) -> str:
    """Hex digest of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary(path: Path) -> Path:
    """The name under which `path` is written until it is complete (one writer at a time, by design)."""
    return path.with_name(f".{path.name}.partial")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary(path).write_text(text, encoding="utf-8", newline="\n")
    temporary(path).replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a `UserError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None


def write_tensors(path: Path, tensors: "dict[str, Tensor]", header: dict[str, Any] | None = None) -> None:
    """Write a safetensors file atomically.

    `header` goes into the single metadata key `secateur` as sorted JSON: with two or more keys the writer orders them at
    random and the bytes would differ from run to run.
    """
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"secateur": json.dumps(header, sort_keys=True)} if header is not None else None
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary(path), metadata=metadata)
    temporary(path).replace(path)


@contextmanager
def open_tensors(path: Path) -> "Iterator[Any]":
    """`safetensors.safe_open`, with a missing or damaged file as a `UserError` that names it."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not safetensors ({error}); fetch or make it again") from None


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read a safetensors file written by `write_tensors`: its tensors and its header."""
    with open_tensors(path) as file:
        header = json.loads((file.metadata() or {}).get("secateur", "{}"))
        return {name: file.get_tensor(name) for name in sorted(file.keys())}, header


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it becomes `path`, with its SHA256SUMS, only if the body ends without an error."""
    partial = temporary(path)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        seal_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def drop_interrupted(folder: Path) -> None:
    """Remove what a writer that was killed left in `folder`: temporary files, ours and safetensors', begin with a dot."""
    for file in folder.rglob(".*"):
        if file.is_file():
            file.unlink()


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS over all files of `folder`: from then on the folder is known to be whole (`check_folder`)."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != SUMS)
    lines = [f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    write_text(folder / SUMS, "".join(lines))
    ordinary = stat.S_IMODE((folder / SUMS).stat().st_mode)
    for file in files:  # safetensors lets nobody but the owner read what it writes
        file.chmod(ordinary)


def seal_folder(partial: Path, path: Path) -> None:
    """Write SHA256SUMS into `partial` and put it in the place of `path`."""
    write_sums(partial)
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.replace(path)


def read_sums(folder: Path) -> dict[str, str]:
    """File names and digests in the SHA256SUMS of a finished folder."""
    identity(folder)
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def identity(folder: Path) -> str:
    """The digest that names a finished artifact folder: the SHA-256 of its SHA256SUMS file."""
    if not (folder / SUMS).is_file():
        raise UserError(f"{folder} is not a finished artifact (no {SUMS}); run the stage that makes it")
    return sha256(folder / SUMS)


def check_folder(folder: Path) -> list[str]:
    """Names of the files in `folder` that are missing or differ from its SHA256SUMS (empty: all is well)."""
    sums = read_sums(folder).items()
    return [name for name, digest in sums if not (folder / name).is_file() or sha256(folder / name) != digest]
