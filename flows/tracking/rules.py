"""Which run of a study is best: named rules over the metrics and parameters of its runs in MLflow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.errors import UserError, unknown_name


@dataclass(frozen=True)
class Wanted:
    """What a run must be to be chosen. None and an empty name ask for nothing.

    `sparsity_at_least`: a fraction, as asked for in the study. `corpus`: a column of perplexity, or the text in it. `mean`: a
    named mean of accuracies. `perplexity_at_most`: on that corpus.
    """

    sparsity_at_least: float | None = None
    perplexity_at_most: float | None = None
    pattern: str = ""
    corpus: str = ""
    model: str = ""
    mean: str = "wanda"

    def __str__(self) -> str:
        parts = {
            "sparsity at least": self.sparsity_at_least,
            "perplexity at most": self.perplexity_at_most,
            "pattern": self.pattern,
            "corpus": self.corpus,
            "model": self.model,
        }
        return ", ".join(f"{name} {value}" for name, value in parts.items() if value not in (None, ""))


@dataclass(frozen=True)
class Rule:
    """The metric that decides, given all runs, and whether the highest is best."""

    metric: Callable[[Sequence[Any], Wanted], str]
    highest: bool
    says: str


def perplexity_metric(runs: Sequence[Any], wanted: Wanted) -> str:
    """The one column of perplexity that is meant."""
    columns = _columns(runs, "ppl/", 2)
    chosen = [column for column in columns if wanted.corpus in ("", column[4:]) or column[4:].startswith(f"{wanted.corpus}-")]
    return _only(chosen, columns, "--corpus", wanted.corpus, 4)


def mean_metric(runs: Sequence[Any], wanted: Wanted) -> str:
    """The one mean of accuracies of that name."""
    columns = [name for name in _columns(runs, "zeroshot/", 4) if name.split("/")[2] == "mean"]
    return _only([name for name in columns if wanted.mean in (name, name.split("/")[3])], columns, "--mean", wanted.mean, 0)


RULES = {
    "lowest-perplexity": Rule(perplexity_metric, False, "lowest perplexity on --corpus"),
    "highest-accuracy": Rule(mean_metric, True, "highest mean accuracy over the zero-shot tasks, as --mean names it"),
    "smallest": Rule(lambda runs, wanted: "bytes_packed", False, "fewest bytes as masks and survivors, for --perplexity-at-most"),
}


def best(study: str, runs: Sequence[Any], name: str, wanted: Wanted) -> tuple[Any, str]:
    """The run that the rule chooses among the pruned ones, and the metric that decided; equal ones by name.

    Raises `UserError` for an unknown rule or name, for runs of several models among which none was chosen, and if no subject
    fulfils what is wanted.
    """
    if name not in RULES:
        raise unknown_name("rule", name, RULES)
    rule = RULES[name]
    models = sorted({run.data.params["model"] for run in runs})
    if wanted.model and wanted.model not in models:
        raise unknown_name("model", wanted.model, models)
    if len(models) > 1 and not wanted.model:
        raise UserError(f"{study} has runs of several models; choose with --model ({', '.join(models)})")
    if wanted.corpus:  # also where the rule looks at something else
        perplexity_metric(runs, wanted)
    if wanted.mean != Wanted.mean:
        mean_metric(runs, wanted)
    metric = rule.metric(runs, wanted)
    limit = perplexity_metric(runs, wanted) if wanted.perplexity_at_most is not None else None
    fitting = [run for run in runs if metric in run.data.metrics and _fits(run, wanted, limit)]
    if not fitting:
        asked = str(wanted)
        raise UserError(f"no pruned subject of {study!r} has {metric}{f' and {asked}' if asked else ''}; ask for less")
    sign = -1 if rule.highest else 1
    return min(fitting, key=lambda run: (sign * run.data.metrics[metric], run.info.run_name)), metric


def _fits(run: Any, wanted: Wanted, limit: str | None) -> bool:
    params, metrics = run.data.params, run.data.metrics
    return (
        params["method"] != "dense"
        and wanted.model in ("", params["model"])
        and wanted.pattern in ("", params.get("pattern"))
        and metrics["sparsity"] >= (wanted.sparsity_at_least or 0)
        and (limit is None or metrics.get(limit, float("inf")) <= (wanted.perplexity_at_most or 0))
    )


def _columns(runs: Sequence[Any], head: str, parts: int) -> list[str]:
    """Names of the metrics that begin so and have so many parts."""
    names = {name for run in runs for name in run.data.metrics}
    return sorted(name for name in names if name.startswith(head) and name.count("/") == parts - 1)


def _only(chosen: Sequence[str], columns: Sequence[str], option: str, value: str, cut: int) -> str:
    if len(chosen) == 1:
        return chosen[0]
    if not columns:
        raise UserError("the study has no such metric: it was not measured")
    what = f"{option} {value!r} fits {'several' if chosen else 'none'}" if value else f"{option} is needed"
    raise UserError(f"{what}; there are {', '.join(name[cut:] for name in (chosen or columns))}")
