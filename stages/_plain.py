"""Files as `datasets` can take them: under names that are no patterns, and without byte-order marks.

`datasets` and fsspec read `*`, `?`, brackets, `#` and `::` anywhere in a path as patterns or chains of file systems, and find
nothing or another file. A user's folder may be called anything, so they only ever see links in the system's temporary folder.
"""

import gzip
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from secateur.errors import UserError
from stages._encoding import UTF8, is_marked

PLAIN = re.compile(r"[\w./ +,@~-]+", re.ASCII)
TEXTS = (".json", ".jsonl", ".csv")
COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
ROOM = "room"


@contextmanager
def workspace(scratch: Path) -> Iterator[Path]:
    """A folder with a plain path, for links; its sub-folder `ROOM` lies in `scratch`, where there is room for data.

    Raises a `UserError` if even the system's temporary folder is called like a pattern.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch) as room, tempfile.TemporaryDirectory(prefix="secateur-") as links:
        if not PLAIN.fullmatch(links):
            raise UserError(f"the temporary folder {links!r} is called like a pattern; set TMPDIR to one with a plain name")
        place(Path(room), Path(links, ROOM))
        yield Path(links)


def place(file: Path, link: Path) -> Path:
    """Make `link`, and the folders above it, lead to a file or folder."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(file.absolute())
    return link


def place_text(file: Path, name: str, work: Path) -> Path:
    """The same for a data file, as `name` in the workspace `work`: one that begins with UTF-8's mark as a copy without it.

    Other encodings, and a compression that no installed package reads, are a `UserError`; other files are linked as they are.
    """
    if data_suffix(name) not in TEXTS:
        return place(file, work / name)
    with _opened(file, "rb") as text:
        if not is_marked(text.read(4), file.name):
            return place(file, work / name)
        text.seek(len(UTF8))
        copy = work / ROOM / "without-mark" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with _opened(copy, "wb") as out:
            shutil.copyfileobj(text, out)
    return place(copy, work / name)


def data_suffix(name: str) -> str:
    """What the name ends on, less a compression."""
    return Path(name.removesuffix(".gz").removesuffix(".zst")).suffix


def plain_name(index: int, name: str) -> str:
    """A name for the `index`-th file that no library misreads and that still ends as `name` does."""
    return f"{index:05}-{re.sub(r'[^A-Za-z0-9._-]', '_', Path(name).name)[-80:]}"


@contextmanager
def _opened(file: Path, mode: str) -> Iterator[IO[bytes]]:
    """A file as the bytes that it holds, compressed or not."""
    from fsspec.compression import compr

    kind = COMPRESSED.get(file.suffix)
    if kind not in compr:
        raise UserError(f"{file.name} is compressed with {kind}, for which a package is missing; run: pip install zstandard")
    with file.open(mode) as raw:
        try:
            with compr[kind](raw, mode=mode) if kind else raw as stream:
                yield stream
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{file.name} is not a whole {kind} file: {error}") from error
