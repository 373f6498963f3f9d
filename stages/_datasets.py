"""Data set repositories in the Hub's layout, on the Hub or in a mirror of it, read with `datasets`.

`work` is a workspace (see `_plain.py`): `datasets` sees the files of a source only under the names that they have there.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import UserError
from stages._one_line import reason
from stages._plain import ROOM, data_suffix, place, place_text, plain_name
from stages._sources import Source

if TYPE_CHECKING:
    from datasets import DatasetDict

BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
README = "README.md"


def expand(source: Source, patterns: list[str]) -> list[str]:
    """Files of the source in the order of the `patterns`, sorted within each; a pattern without a file is an error."""
    names: list[str] = []
    for pattern in patterns:
        found = _matching(source, pattern)
        if not found:
            raise UserError(f"{source.text} has no file {pattern!r} (it has {', '.join(source.names[:5]) or 'none'} ...)")
        names += [name for name in found if name not in names]
    return names


def load_repository(source: Source, config: str | None, splits: dict[str, str] | None, work: Path) -> "DatasetDict":
    """All splits of one config of a repository, or only what `splits` names.

    A value of `splits` is a file pattern (`en/c4-train.00000-of-01024.json.gz`) or a split of the config, whole or a
    slice in the syntax of `datasets` (`train[:1000]`). Only the files that are needed are fetched.
    """
    splits = splits or {}
    patterns = [value for value in splits.values() if "/" in value or "." in value]
    if not patterns:
        return _load_config(source, config, splits, work)
    if len(patterns) != len(splits):
        raise UserError(f"{source.text}: splits must all be file patterns or all be splits of the config, not {splits}")
    if source.mirrored and config and not all(_matching(source, pattern) for pattern in patterns):
        # A mirror may hold a sample under other file names; then its README says which files belong to the config.
        print(f"{source.text}: the mirror does not have {', '.join(patterns)}; reading its config {config!r} instead")
        return _load_config(source, config, {}, work)
    return load_files(source, {split: [pattern] for split, pattern in splits.items()}, work)


def load_files(source: Source, splits: dict[str, list[str]], work: Path) -> "DatasetDict":
    """The files that match a split's patterns as that split; their suffix says how they are read."""
    names = {split: expand(source, patterns) for split, patterns in splits.items()}
    flat = sorted({name for found in names.values() for name in found})
    suffixes = {data_suffix(name) for name in flat}
    if len(suffixes) != 1 or not suffixes <= BUILDERS.keys():
        raise UserError(f"{source.text}: {', '.join(flat)} must all be {' or all '.join(BUILDERS)} (.gz, .zst of it too)")
    folder = source.fetch(flat)
    placed = {name: str(place_text(folder / name, plain_name(index, name), work)) for index, name in enumerate(flat)}
    paths = {split: [placed[name] for name in found] for split, found in names.items()}
    return _load(source, BUILDERS[suffixes.pop()], work, data_files=paths)


def _load_config(source: Source, config: str | None, slices: dict[str, str], work: Path) -> "DatasetDict":
    """One config of the repository by its own README: all splits, or `slices` of them under new names."""
    import datasets

    names = set(_config_files(source, config))
    folder, repository = source.fetch(sorted(names)), work / "repository"
    for name in source.names:
        if name in names:
            place_text(folder / name, f"{repository.name}/{name}", work)
        elif (folder / name).exists():  # of other configs, which `datasets` likes to see too
            place(folder / name, repository / name)
    if not slices:
        return _load(source, str(repository), work, name=config)
    parts = _load(source, str(repository), work, name=config, split=list(slices.values()))
    return datasets.DatasetDict(zip(slices, parts, strict=True))


def _load(source: Source, path: str, work: Path, **options: Any) -> Any:
    """`datasets.load_dataset`, with its errors about the data as one line."""
    from datasets import load_dataset

    # It also writes its errors to the terminal, which would be a second message.
    log = getLogger("datasets")
    level = log.level
    log.setLevel(CRITICAL)
    try:
        with data_errors(source, work):
            return load_dataset(path, cache_dir=str(work / ROOM), **options)
    finally:
        log.setLevel(level)


@contextmanager
def data_errors(source: Source, work: Path) -> Iterator[None]:
    """What `datasets` and those below it (pyarrow, pandas, decompressors) say of damaged data, as a `UserError`.

    What the system says, of a full disk for one, is passed on as it is.
    """
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException

    known = (DatasetsError, ArrowException, ValueError, LookupError, RuntimeError, OSError, EOFError, StopIteration, zlib.error)
    try:
        yield
    except known as error:
        text = " ".join(str(reason(error)).replace(f"{work}/", "").split())
        raise UserError(f"{source.text} cannot be read as a data set: {text or 'a file without rows'}") from error


def _matching(source: Source, pattern: str) -> list[str]:
    """Files by name or, where none is called so, by pattern: a name may itself hold brackets."""
    return [pattern] if pattern in source.names else [name for name in source.names if fnmatch(name, pattern)]


def _config_files(source: Source, config: str | None) -> list[str]:
    """The README and the data files that it lists for `config` (every file, if it lists no files for it)."""
    if README not in source.names:
        return source.names
    listed = [entry.get("data_files") for entry in _configs(source) if config in (None, entry.get("config_name"))]
    if not listed or None in listed:
        return source.names
    patterns: list[Any] = []
    for entry in listed:
        for part in entry if isinstance(entry, list) else [entry]:
            path = part.get("path") if isinstance(part, dict) else part
            patterns += path if isinstance(path, list) else [path]
    if wrong := [pattern for pattern in patterns if not isinstance(pattern, str)]:
        raise UserError(f"{source.text}: {README} lists {wrong[0]!r} among data_files: must be a path, or a split and a path")
    return [README, *expand(source, patterns)]


def _configs(source: Source) -> list[dict[str, Any]]:
    """The entry `configs` in the head of the README."""
    from huggingface_hub import DatasetCard
    from yaml import YAMLError

    try:
        configs = DatasetCard.load(source.fetch([README]) / README).data.to_dict().get("configs") or []
    except (ValueError, TypeError, YAMLError) as error:
        raise UserError(f"{source.text}: the head of {README} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(configs, list) or not all(isinstance(entry, dict) for entry in configs):
        raise UserError(f"{source.text}: configs in the head of {README} is not a list of entries")
    return configs
