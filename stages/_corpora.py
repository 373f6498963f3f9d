"""Text corpora: whatever the source has becomes `<split>.parquet` files with one column `text`, order kept."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import UserError
from stages._datasets import data_errors, expand, load_files, load_repository
from stages._plain import workspace
from stages._readers import READERS
from stages._sources import Source

if TYPE_CHECKING:
    from datasets import Dataset

    from pipelines.schema import DownloadRow
    from pipelines.schema.values import Holdout

ROWS_PER_GROUP = 1000
SPLIT = re.compile(r"\w[\w.-]*")


def make_corpus(row: "DownloadRow", source: Source, out: Path, scratch: Path) -> None:
    """Write each split of the corpus into `out`; without `splits` there is one, `train`.

    Readers: `mediawiki`, `text`, `paragraphs` (see `_readers.py`); `jsonl`, `parquet` (a row a row, its `column`); and
    `hub`, the default: a data set repository, by its config or by `splits`. Rows are kept as they are, empty ones too.
    With `columns` instead of `column`, a document is a JSON object of these columns, in one line.
    `holdout: k` moves every k-th row of `train` to a split `heldout`, `holdout: [a, b]` the rows a to b - 1, and
    `holdout: {count: n, seed: s}` the n rows that `train_test_split` of `datasets` draws; both splits keep the order of rows.
    """
    if wrong := [split for split in row.splits or () if not SPLIT.fullmatch(split)]:
        raise UserError(f"split {wrong[0]!r}: a split is named with letters, digits, . _ and -, since a file is called after it")
    with workspace(scratch) as work, data_errors(source, work):  # rows are read, and may turn out damaged, as they are written
        splits = _read(row, source, work)
        if row.holdout is not None:
            if "train" not in splits or "heldout" in splits:
                raise UserError(f"holdout divides a split train into train and heldout; this has {', '.join(splits)}")
            splits |= _hold_out(list(splits["train"]), row.holdout)
        for split, texts in splits.items():
            write_split(out / f"{split}.parquet", texts)


def _read(row: "DownloadRow", source: Source, work: Path) -> dict[str, Iterable[str | None]]:
    """The rows of every split, lazily."""
    reader = row.reader or "hub"
    if reader in READERS:
        names = {split: expand(source, patterns) for split, patterns in _patterns(row).items()}
        folder = source.fetch(sorted({name for found in names.values() for name in found}))
        return {split: READERS[reader]([folder / name for name in found]) for split, found in names.items()}
    if reader == "hub":
        data = load_repository(source, row.config, row.splits, work)
    elif reader in ("jsonl", "parquet"):
        data = load_files(source, _patterns(row), work)
    else:
        raise UserError(f"unknown corpus reader {reader!r} (known: {', '.join(('hub', 'jsonl', 'parquet', *READERS))})")
    columns = row.columns or [row.column or "text"]
    for split, rows in data.items():
        if missing := ", ".join(repr(column) for column in columns if column not in rows.column_names):
            raise UserError(f"{source.text} has no column {missing} in {split}; it has {', '.join(rows.column_names)}")
    if row.columns:
        return {str(split): _objects(rows, columns, str(split)) for split, rows in data.items()}
    return {str(split): rows[columns[0]] for split, rows in data.items()}


def _objects(rows: "Dataset", columns: Sequence[str], split: str) -> Iterator[str]:
    """Each row as a JSON object, its texts in the order of `columns`; anything but text is a `UserError`."""
    for index, cells in enumerate(zip(*(rows[column] for column in columns), strict=True)):
        texts = dict(zip(columns, cells, strict=True))
        for column, text in texts.items():
            if not isinstance(text, str):
                raise UserError(f"row {index} of the split {split} has no text in {column!r}, but {text!r}")
        yield json.dumps(texts, ensure_ascii=False)


def _patterns(row: "DownloadRow") -> dict[str, list[str]]:
    return {split: [pattern] for split, pattern in (row.splits or {}).items()} or {"train": row.files or ["*"]}


def _hold_out(rows: list[str | None], holdout: "Holdout") -> dict[str, Iterable[str | None]]:
    chosen = _drawn(len(rows), **holdout) if isinstance(holdout, dict) else _regular(len(rows), holdout)
    if not chosen or chosen[-1] >= len(rows):
        raise UserError(f"holdout {holdout} does not fit a source of {len(rows)} rows")
    held = set(chosen)
    train = [text for index, text in enumerate(rows) if index not in held]
    return {"train": train, "heldout": [rows[index] for index in chosen]}


def _regular(rows: int, holdout: int | list[int]) -> Sequence[int]:
    return range(*holdout) if isinstance(holdout, list) else range(holdout - 1, rows, holdout)


def _drawn(rows: int, count: int, seed: int) -> Sequence[int]:
    """Numbers of the held-out rows, ascending; none if nothing would be left to train on."""
    from datasets import Dataset

    if count >= rows:
        return []
    return sorted(Dataset.from_dict({"row": range(rows)}).train_test_split(test_size=count, seed=seed)["test"]["row"])


def write_split(path: Path, texts: Iterable[str | None]) -> None:
    """One Parquet file with the column `text`; a missing text or a split without rows is a `UserError`."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    schema = pyarrow.schema([("text", pyarrow.string())])
    rows, stream = 0, iter(texts)
    with path.open("wb") as file, ParquetWriter(file, schema) as writer:  # a file: pyarrow takes some paths for addresses
        while group := list(islice(stream, ROWS_PER_GROUP)):
            if None in group:
                raise UserError(f"row {rows + group.index(None)} of the split {path.stem} has no text")
            writer.write_table(pyarrow.table({"text": group}, schema=schema))
            rows += len(group)
    if not rows:
        raise UserError(f"the split {path.stem} has no rows")
