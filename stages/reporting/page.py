"""The report as one HTML file with its styles, scripts and data inside: it opens from a disk without a server."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from stages.reporting import choice_plots, finetune_plots, labels, layer_plots, plots, published, tables
from stages.reporting.result_files import Score, Sparsity
from stages.reporting.results import Row, Study

HERE = Path(__file__).parent


@cache
def vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script (built anew by vl-convert, which takes seconds)."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def render(studies: Sequence[Study], params: Mapping[str, Any]) -> str:
    """The whole page. Everything that comes from data is escaped; only our own files and Vega's bundle are not."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        studies=[_section(study, params) for study in studies],
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "page.js").read_text(encoding="utf-8")),
        bundle=Markup(vega()),
        ramp=layer_plots.RAMP,
    )


def _section(study: Study, params: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of one study; empty lists are sections that it leaves out."""
    found = published.references(study, params)
    columns = [
        *tables.setting_columns(study),
        *tables.perplexity_columns(study, found),
        *tables.mean_columns(study, found),
        *tables.size_columns(study),
        *tables.zeroshot_columns(study, found),
    ]
    names = labels.labels(study.rows)
    return {
        "name": study.name,
        "title": study.title,
        "common": _common(study),
        "columns": columns,
        "groups": [(group, list(members)) for group, members in groupby(columns, lambda column: column.group)],
        "rows": study.rows,
        "labels": names,
        "any_best": any(cell.best or cell.sub_best for column in columns for cell in column.cells),
        "notes": published.notes(study, found, params),
        "perplexity": plots.perplexity_plots(study),
        "zeroshot": plots.zeroshot_plots(study),
        "limits": [labels.items(limit) for limit in _limits(study)],
        "sizes": plots.size_plots(study),
        "allocations": layer_plots.allocation_plots(study),
        "layers": layer_plots.layer_plots(study),
        "choices": choice_plots.choice_plots(study),
        "finetunes": finetune_plots.finetune_plots(study),
        "outcomes": finetune_plots.outcomes(study),
        "range": [labels.percent(end, 0) for end in layer_plots.layer_range(study)] if study.runs else [],
        "details": [(row, names[row.subject], list(_facts(row))) for row in study.rows],
    }


def _limits(study: Study) -> list[int | None]:
    return list(dict.fromkeys(result.limit for row in study.rows for result in row.zeroshot.values()))


def _common(study: Study) -> list[tuple[str, str]]:
    """The settings that all rows share: said once above the table instead of in a column each."""
    varying = labels.varying(study.rows)
    shared = [("model", study.rows[0].model)] if "model" not in varying else []
    for name in labels.DISTINGUISHING[1:]:
        values = {labels.shown(row, name) for row in study.runs} - {""}
        if name not in varying and name != "propagation" and values:
            shared.append((name, values.pop()))
    return shared


def _facts(row: Row) -> list[tuple[str, list[tuple[str, str]]]]:
    """Everything recorded about a row, as titled lists: settings, hashes, and how each metric was measured."""
    facts: list[tuple[str, list[tuple[str, str]]]] = []
    if row.run:
        settings = row.run.settings
        for title, values in (("Run", settings.run), ("Calibration", settings.calibration)):
            facts.append((title, [(name, labels.setting(value) or labels.NOTHING) for name, value in (values or {}).items()]))
        facts += [("On disk", _sizes(row.run)), ("SHA-256 of what the run was made of", _hashes(row.run.provenance))]
    if row.tuned:
        steps = [("how", row.finetune), ("steps", f"{row.tuned.steps:,}"), ("kept step", labels.setting(row.tuned.kept_step))]
        trained = [("trained parameters", f"{row.tuned.trained_parameters:,}")]
        facts.append(("Fine-tuning", steps + trained + _hashes(row.tuned.provenance)))
    for column, result in row.ppl.items():
        measured = [
            ("perplexity", f"{result.perplexity:.6g}"),
            ("standard error of the mean loss", _nats(result.nll_standard_error)),
            ("text", f"{result.corpus}, {result.split}, {labels.windows([result])} of {result.length:,} tokens"),
            ("predicted tokens", f"{result.tokens:,}"),
            ("protocol", result.protocol),
        ]
        facts.append((f"Perplexity, {column}", measured + _hashes(result.provenance)))
    for column, found in row.zeroshot.items():
        scores = [(task, " ".join(_score(score))) for task, score in found.tasks.items()]
        for rule, mean in found.means.items():
            scores.append((f"mean, {rule}", f"{labels.percent(mean.mean, 2)} % over {', '.join(mean.tasks)}"))
        facts.append((f"Zero-shot, {column} ({labels.items(found.limit)})", scores + _hashes(found.provenance)))
    return [(title, pairs) for title, pairs in facts if pairs]


def _nats(error: float | None) -> str:
    return "none: a single window" if error is None else f"{error:.4f} nats"


def _sizes(run: Sparsity) -> list[tuple[str, str]]:
    names = {"pruned layers, dense": "dense", "packed": "packed", "stored masks": "masks", "stored values": "values"}
    return [(title, f"{getattr(run.bytes, name):,} bytes") for title, name in names.items()]


def _score(score: Score) -> list[str]:
    parts = [f"acc {labels.accuracy(score.acc, score.acc_stderr, 2)} %"]
    if score.acc_norm is not None:
        parts.append(f"acc_norm {labels.accuracy(score.acc_norm, score.acc_norm_stderr, 2)} %")
    return [", ".join(parts), f"({score.samples:,} items of {score.split})"]


def _hashes(provenance: Mapping[str, str | None]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in sorted(provenance.items()) if value]
