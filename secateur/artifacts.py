"""Files and folders that are either whole or absent, and the checksums that name them.

Everything is written under a temporary name beside its target and renamed when it is complete, so a process killed at
any moment leaves nothing that could be mistaken for a result. A finished folder carries a `SHA256SUMS` file in the format
of coreutils (`sha256sum -c SHA256SUMS` checks it); the digest of its lines is the folder's identity in provenance records.
`secateur/outputs.py` says when a folder may be written or replaced.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

SUMS = "SHA256SUMS"
MARK = "# written by secateur"  # the first line of every SHA256SUMS; `sha256sum -c` takes it for a comment


def sha256(path: Path) -> str:
    """Hex digest of one file; one that cannot be read is a `UserError`."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary(path: Path) -> Path:
    """The name under which `path` is written until it is complete (one writer at a time, by design)."""
    return path.parent / f".{path.name}.partial"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system says when it does not let us write (full disk, quota, permissions) becomes a `UserError` about `path`."""
    try:
        yield
    except _writers_errors() as error:
        if (reason := _reason(error)) is None:
            raise
        raise UserError(f"{path} cannot be written: {reason}; run the same again once that is mended") from None


def _writers_errors() -> tuple[type[Exception], ...]:
    """What Python and safetensors raise; the import is made only when something was raised."""
    from safetensors import SafetensorError

    return OSError, SafetensorError


def _reason(error: Exception) -> str | None:
    """The system's own words; None if the error is not the system's."""
    if isinstance(error, OSError):
        return error.strerror
    code = re.search(r"\(os error (\d+)\)", str(error))
    return os.strerror(int(code[1])) if code else None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name to write under; the file becomes `path` only if the body ends without an error."""
    partial = temporary(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with whole_file(path) as file:
        file.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted, so that equal values are equal bytes."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a `UserError` that names it."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply to be read") from None


def read_text(path: Path) -> str:
    """The text of a file, without the byte-order mark that Windows programs put before it. What is missing, no ordinary file (a
    pipe would never end), unreadable or no UTF-8 is a `UserError`."""
    with reading(path):
        if not path.is_file():
            raise UserError(f"{path} {'is not an ordinary file' if path.exists() else 'does not exist'}")
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system says when it does not let us read becomes a `UserError` about `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None


def write_tensors(path: Path, tensors: "dict[str, Tensor]", header: dict[str, Any] | None = None) -> None:
    """Write a safetensors file atomically.

    `header` goes into the single metadata key `secateur` as sorted JSON: with two or more keys the writer orders them at
    random and the bytes would differ from run to run.
    """
    from safetensors.torch import save_file

    metadata = {"secateur": json.dumps(header, sort_keys=True)} if header is not None else None
    with whole_file(path) as file:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=metadata)


@contextmanager
def open_tensors(path: Path, **options: Any) -> "Iterator[Any]":
    """`safetensors.safe_open`, for torch unless `options` say otherwise; a missing or damaged file is a `UserError`."""
    from safetensors import SafetensorError, safe_open

    with reading(path):
        if not path.is_file():
            raise UserError(f"{path} {'is not an ordinary file' if path.exists() else 'does not exist'}")
        path.open("rb").close()  # safetensors reports a file that may not be read as missing
    try:
        with safe_open(path, **{"framework": "pt", **options}) as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not safetensors ({error}); fetch or make it again") from None


def header_of(file: Any) -> dict[str, Any]:
    """The header that `write_tensors` put into an open file."""
    return json.loads((file.metadata() or {}).get("secateur", "{}"))


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read a safetensors file written by `write_tensors`: its tensors and its header."""
    with open_tensors(path) as file:
        header = header_of(file)
        return {name: file.get_tensor(name) for name in sorted(file.keys())}, header


def write_sums(folder: Path, without: Iterable[str] = ()) -> None:
    """Write SHA256SUMS over all files of `folder` less those `without`: it is whole from then on (`check_folder`), and ours."""
    left_out = [folder / name for name in (SUMS, *without)]
    with writing(folder / SUMS):
        files = sorted(file for file in folder.rglob("*") if file.is_file() and file not in left_out)
        lines = [MARK, *(f"{sha256(file)}  {file.relative_to(folder).as_posix()}" for file in files)]
        write_text(folder / SUMS, "\n".join(lines) + "\n")
        ordinary = stat.S_IMODE((folder / SUMS).stat().st_mode)
        for file in files:  # safetensors lets nobody but the owner read what it writes
            file.chmod(ordinary)


def is_marked(file: Path) -> bool:
    """Whether a file says, in its first line, that secateur wrote it."""
    if file.is_symlink() or not file.is_file():
        return False
    with file.open("rb") as content:
        return content.readline(len(MARK) + 2).rstrip() == MARK.encode()


def read_sums(folder: Path) -> dict[str, str]:
    """File names and digests in the SHA256SUMS of a finished folder; a `UserError` if that is missing or not in the format."""
    found = [re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line) for line in _sums_lines(folder)]
    if None in found:
        raise UserError(f"{folder / SUMS} has a line that is not in the format of sha256sum; make {folder} again")
    return {line[2]: line[1] for line in found if line}


def identity(folder: Path) -> str:
    """The digest that names a finished artifact folder: the SHA-256 of the lines of its SHA256SUMS, comments left out."""
    return hashlib.sha256("".join(f"{line}\n" for line in _sums_lines(folder)).encode()).hexdigest()


def _sums_lines(folder: Path) -> list[str]:
    if not (folder / SUMS).is_file():
        raise UserError(f"{folder} is not a finished artifact (no {SUMS}); run the stage that makes it")
    try:
        text = (folder / SUMS).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{folder / SUMS} is not text; make {folder} again") from None
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def check_folder(folder: Path) -> list[str]:
    """Names of the files in `folder` that are missing or differ from its SHA256SUMS (empty: all is well)."""
    sums = read_sums(folder).items()
    return [name for name, digest in sums if not (folder / name).is_file() or sha256(folder / name) != digest]
