"""Data set repositories in the Hub's layout, on the Hub or in a mirror of it, read with `datasets`."""

from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.errors import UserError
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


def load_repository(source: Source, config: str | None, splits: dict[str, str] | None, cache: Path) -> "DatasetDict":
    """All splits of one config of a repository, or only what `splits` names.

    A value of `splits` is a file pattern (`en/c4-train.00000-of-01024.json.gz`) or a split of the config, whole or a
    slice in the syntax of `datasets` (`train[:1000]`). Only the files that are needed are fetched.
    """
    splits = splits or {}
    patterns = [value for value in splits.values() if "/" in value or "." in value]
    if not patterns:
        return _load_config(source, config, splits, cache)
    if len(patterns) != len(splits):
        raise UserError(f"{source.text}: splits must all be file patterns or all be splits of the config, not {splits}")
    if source.mirrored and config and not all(_matching(source, pattern) for pattern in patterns):
        # A mirror may hold a sample under other file names; then its README says which files belong to the config.
        print(f"{source.text}: the mirror does not have {', '.join(patterns)}; reading its config {config!r} instead")
        return _load_config(source, config, {}, cache)
    return load_files(source, {split: [pattern] for split, pattern in splits.items()}, cache)


def load_files(source: Source, splits: dict[str, list[str]], cache: Path) -> "DatasetDict":
    """The files that match a split's patterns as that split; their suffix says how they are read."""
    names = {split: expand(source, patterns) for split, patterns in splits.items()}
    flat = sorted({name for found in names.values() for name in found})
    suffixes = {Path(name.removesuffix(".gz").removesuffix(".zst")).suffix for name in flat}
    if len(suffixes) != 1 or not suffixes <= BUILDERS.keys():
        raise UserError(f"{source.text}: {', '.join(flat)} must all be {' or all '.join(BUILDERS)} (.gz, .zst of it too)")
    folder = source.fetch(flat)
    paths = {split: [str(folder / name) for name in found] for split, found in names.items()}
    return _load(source, BUILDERS[suffixes.pop()], cache, data_files=paths)


def _load_config(source: Source, config: str | None, slices: dict[str, str], cache: Path) -> "DatasetDict":
    """One config of the repository by its own README: all splits, or `slices` of them under new names."""
    import datasets

    folder = str(source.fetch(_config_files(source, config)))
    if not slices:
        return _load(source, folder, cache, name=config)
    parts = _load(source, folder, cache, name=config, split=list(slices.values()))
    return datasets.DatasetDict(zip(slices, parts, strict=True))


def _load(source: Source, path: str, cache: Path, **options: Any) -> Any:
    """`datasets.load_dataset`, with its errors about the data as one line."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(path, cache_dir=str(cache), **options)
    except (DatasetsError, ValueError) as error:
        raise UserError(f"{source.text} cannot be read as a data set: {' '.join(str(error).split())}") from error


def _matching(source: Source, pattern: str) -> list[str]:
    return [name for name in source.names if fnmatch(name, pattern)]


def _config_files(source: Source, config: str | None) -> list[str]:
    """The README and the data files that it lists for `config` (every file, if it lists no files for it)."""
    from huggingface_hub import DatasetCard

    if README not in source.names:
        return source.names
    configs = DatasetCard.load(source.fetch([README]) / README).data.to_dict().get("configs") or []
    listed = [entry.get("data_files") for entry in configs if config in (None, entry.get("config_name"))]
    if not listed or None in listed:
        return source.names
    patterns: list[str] = []
    for entry in listed:
        for part in entry if isinstance(entry, list) else [entry]:
            path = part["path"] if isinstance(part, dict) else part
            patterns += path if isinstance(path, list) else [path]
    return [README, *expand(source, patterns)]
