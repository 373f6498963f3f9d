"""What a study that reproduces a published table is expected to find, row by row."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from pipelines.published import Fact, facts, published_names, same_accuracy, same_perplexity, same_subject
from pipelines.schema import PerplexityRow, RunRow, StatsRow, ZeroshotRow
from pipelines.tables import Tables


@dataclass(frozen=True)
class _Planned:
    """A subject of the tables."""

    model: str
    run: RunRow | None
    stats: StatsRow | None

    @property
    def method(self) -> str:
        return self.run.method if self.run else "dense"

    @property
    def pattern(self) -> str:
        return self.run.pattern if self.run else "dense"

    @property
    def sparsity(self) -> float:
        return self.run.sparsity if self.run else 0.0

    def setting(self, name: str) -> Any:
        return getattr(self.run, name)

    def calibrated(self, name: str) -> Any:
        return getattr(self.stats, name)


def expected(tables: Tables, rules: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Stage name of each evaluation that was published as it is planned → the published values. `rules` are the tasks of
    each published mean."""
    download = {key: row.model_dump() for key, row in tables.download.items()}
    known, found = facts(), {}

    def of(row: PerplexityRow | ZeroshotRow) -> list[Fact]:
        if row.mode:  # the published rows were not fine-tuned
            return []
        run = tables.runs.get(row.subject)
        planned = _Planned(row.model, run, tables.stats.get(run.source.removeprefix("stats/")) if run else None)
        names = published_names(row.model, download)
        return [fact for fact in known if fact["model"] in names and same_subject(fact, planned, download)]

    for key, row in tables.ppl.items():
        result = SimpleNamespace(**row.model_dump(), windows_available=None)
        found[f"eval-ppl@{key}"] = [fact for fact in of(row) if same_perplexity(fact, result, row.joiner, download)]
    for key, row in tables.zeroshot.items():
        means = [rule for rule, tasks in rules.items() if set(tasks) <= set(row.tasks)]
        matching = [fact for fact in of(row) if any(same_accuracy(fact, rule, "mean", row.limit) for rule in means)]
        found[f"eval-zeroshot@{key}"] = matching
    return {name: " / ".join(dict.fromkeys(fact["value"] for fact in same)) for name, same in found.items() if same}
