"""What the tables of params.yaml hold, and how they are checked."""

from pipelines.schema.parsing import parse
from pipelines.schema.rows import (
    DOWNLOADER,
    PRUNER,
    AllocationRow,
    Compute,
    DownloadRow,
    Fetched,
    FetchedText,
    PerplexityRow,
    Report,
    ReportStudy,
    RunRow,
    StatsRow,
    ZeroshotRow,
)
from pipelines.schema.values import Bundle, Digests, Holdout, Pattern, Positive, Slug, Source, Sparsity, Strict, Table

__all__ = [
    "DOWNLOADER",
    "PRUNER",
    "AllocationRow",
    "Bundle",
    "Compute",
    "Digests",
    "DownloadRow",
    "Fetched",
    "FetchedText",
    "Holdout",
    "Pattern",
    "PerplexityRow",
    "Positive",
    "Report",
    "ReportStudy",
    "RunRow",
    "Slug",
    "Source",
    "Sparsity",
    "StatsRow",
    "Strict",
    "Table",
    "ZeroshotRow",
    "parse",
]
