"""A study as columns of cells, ready for the page and for the README."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from stages.reporting import labels
from stages.reporting.published import Reference
from stages.reporting.results import Row, Study


@dataclass(frozen=True)
class Cell:
    """One value, a smaller line below it, whether each is the best among its peers, and a tooltip."""

    main: str = labels.NOTHING
    sub: str = ""
    best: bool = False
    sub_best: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Column:
    """A column: adjacent ones of the same `group` (with its `group_note`) stand under one heading."""

    group: str
    title: str
    cells: Sequence[Cell]
    note: str = ""
    group_note: str = ""
    number: bool = True


Value = Callable[[Row], float | None]


def best(rows: Sequence[Row], value: Value, lowest: bool) -> list[bool]:
    """Which rows have the best value among rows of the same model, pattern and sparsity.

    Nothing is marked where there is nobody to compare with, or where all are equal. Dense rows are never marked.
    """
    groups: defaultdict[Hashable, list[float]] = defaultdict(list)
    for row in rows:
        found = value(row)
        if row.peers is not None and found is not None:
            groups[row.peers].append(found)
    choose = min if lowest else max
    winners = {peers: choose(found) for peers, found in groups.items() if len(set(found)) > 1}
    return [row.peers in winners and value(row) == winners[row.peers] for row in rows]


def setting_columns(study: Study) -> list[Column]:
    """What was done: method, pattern, sparsity asked for and reached, propagation, and whatever else differs."""
    rows = study.rows
    extra = [name for name in labels.varying(rows) if name not in ("model", "propagation")]
    group = "Subject"
    names = labels.labels(rows)
    first = [Cell(row.method, names[row.subject].removeprefix(row.method).strip(" ·")) for row in rows]
    columns = [Column(group, "method", first, number=False)]
    if len({row.model for row in rows}) > 1:
        columns.append(Column(group, "model", [Cell(row.model) for row in rows], number=False))
    target = [Cell(labels.percent(row.sparsity, 0), hint=labels.share(row.sparsity)) for row in rows]
    reached = [Cell(labels.percent(row.achieved, 2)) for row in rows]
    columns += [
        Column(group, "pattern", [Cell(row.pattern or labels.NOTHING) for row in rows], number=False),
        Column("Sparsity, %", "target", target),
        Column("Sparsity, %", "achieved", reached),
    ]
    for name in ("propagation", *extra):
        texts = [labels.shown(row, name) for row in rows]
        columns.append(Column("Run", name, [Cell(text or labels.NOTHING) for text in texts], number=False))
    return columns


def perplexity_columns(study: Study, published: Sequence[Reference] = ()) -> list[Column]:
    """Perplexity per corpus with the ratio to dense, each followed by the published values where there are any."""
    columns = []
    for name in study.ppl_columns:
        results = [row.ppl[name] for row in study.rows if name in row.ppl]
        first = results[0]

        def value(row: Row, name: str = name) -> float | None:
            return row.ppl[name].perplexity if name in row.ppl else None

        cells = []
        for row, mark in zip(study.rows, best(study.rows, value, lowest=True), strict=True):
            ours, dense = value(row), study.dense(row)
            if ours is None:
                cells.append(Cell())
                continue
            base = value(dense) if dense and row.run else None
            error = row.ppl[name].nll_standard_error
            hint = labels.perplexity_error(row.ppl[name]) + ("" if error is None else " (standard error over windows)")
            cells.append(Cell(labels.perplexity(ours), f"{labels.TIMES}{ours / base:.2f}" if base else "", mark, hint=hint))
        protocol = "" if first.protocol == "A" else f", protocol {first.protocol}"
        split = "" if first.split in ("heldout", "test") else f" ({first.split})"
        note = f"length {first.length:,}{protocol}, {labels.windows(results)}"
        column = Column("Perplexity", f"{first.corpus}{split}", cells, note, "lower is better")
        columns += [column, *_published(study, column, "ppl", name, published)]
    return columns


def zeroshot_columns(study: Study, published: Sequence[Reference] = ()) -> list[Column]:
    """Accuracy and normed accuracy of each task with their standard errors, in percent."""
    columns = []
    for name in study.zeroshot_columns:
        results = [row.zeroshot[name] for row in study.rows if name in row.zeroshot]
        for task in dict.fromkeys(task for result in results for task in result.tasks):
            scores = {row.subject: row.zeroshot[name].tasks.get(task) for row in study.rows if name in row.zeroshot}
            plain = best(study.rows, lambda row, s=scores: v.acc if (v := s.get(row.subject)) else None, lowest=False)
            normed = best(study.rows, lambda row, s=scores: v.acc_norm if (v := s.get(row.subject)) else None, False)
            cells = []
            for row, mark, sub_mark in zip(study.rows, plain, normed, strict=True):
                score = scores.get(row.subject)
                if score is None:
                    cells.append(Cell())
                    continue
                norm = "" if score.acc_norm is None else labels.accuracy(score.acc_norm, score.acc_norm_stderr)
                cells.append(Cell(labels.accuracy(score.acc, score.acc_stderr), norm, mark, sub_mark))
            samples = labels.span({score.samples for score in scores.values() if score})
            note = f"{samples} items" + ("; below: normed" if any(cell.sub for cell in cells) else "")
            limit = f"{results[0].data}, {labels.items(results[0].limit)}"
            column = Column("Zero-shot accuracy, %", task, cells, note, limit)
            columns += [column, *_published(study, column, task, name, published)]
    return columns


def mean_columns(study: Study, published: Sequence[Reference] = ()) -> list[Column]:
    """The mean accuracy under each named rule, with how many of the rule's tasks it covers."""
    columns = []
    for name in study.zeroshot_columns:
        results = [row.zeroshot[name] for row in study.rows if name in row.zeroshot]
        for rule in dict.fromkeys(rule for result in results for rule in result.means):

            def value(row: Row, name: str = name, rule: str = rule) -> float | None:
                mean = row.zeroshot[name].means.get(rule) if name in row.zeroshot else None
                return mean.mean if mean else None

            cells = []
            for row, mark in zip(study.rows, best(study.rows, value, lowest=False), strict=True):
                ours = value(row)
                hint = ", ".join(row.zeroshot[name].means[rule].tasks) if ours is not None else ""
                cells.append(Cell(labels.percent(ours), best=mark, hint=hint) if ours is not None else Cell())
            means = [result.means[rule] for result in results if rule in result.means]
            note = f"{labels.span({len(mean.tasks) for mean in means})} of {means[0].of} tasks"
            limit = f"by rule; {labels.items(results[0].limit)}"
            column = Column("Mean accuracy, %", rule, cells, note, limit)
            columns += [column, *_published(study, column, rule, name, published)]
    return columns


def size_columns(study: Study) -> list[Column]:
    """Bytes of the pruned layers: dense or packed, with the ratio of the two, and what the run itself had to store."""
    if not study.runs:
        return []
    packed, stored = [], []
    for row in study.rows:
        if row.run is None:
            packed.append(Cell(labels.size(row.bytes_dense)) if row.bytes_dense is not None else Cell())
            stored.append(Cell())
            continue
        size = row.run.bytes
        packed.append(Cell(labels.size(size.packed), f"{labels.TIMES}{size.packed / size.dense:.2f}"))
        hint = f"masks {labels.size(size.masks)}, values {labels.size(size.values)}"
        stored.append(Cell(labels.size(size.masks + size.values), hint=hint))
    group, of_what = "Size on disk", "pruned layers"
    return [Column(group, "packed", packed, "masks, survivors", of_what), Column(group, "stored", stored, "by the run", of_what)]


def _published(study: Study, column: Column, metric: str, name: str, references: Sequence[Reference]) -> list[Column]:
    """The column of published values that belongs beside `column`, or nothing if no row has one."""
    values = {found.subject: found for found in references if (found.metric, found.column) == (metric, name)}
    if not values:
        return []
    cells = []
    for row in study.rows:
        reference = values.get(row.subject)
        cells.append(Cell(reference.text, reference.source, hint=reference.hint) if reference else Cell())
    return [Column(column.group, "published", cells, column.title, column.group_note)]
