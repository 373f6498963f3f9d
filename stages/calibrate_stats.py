"""Calibration tokens and statistics of the dense model: `python -m stages calibrate-stats KEY` (KEY: a row of `stats`).

Every `dense` run of a model reads the statistics written here; `site` and `block` runs read the tokens alone. The bundle
`gradients` is not of what layers see but of what the model's loss asks of each weight. Padded examples, which only fine-tunings
read, have the bundle `tokens` alone, with their labels in the same file.
"""

from pipelines.schema import Compute, StatsRow, parse
from secateur.artifacts import identity
from secateur.errors import unknown_name
from stages._io import ARTIFACTS, UNFINISHED, read_row, read_section


def run(key: str, force: bool = False) -> None:
    """Write artifacts/stats/KEY. With `force` it may be there already."""
    row = parse(StatsRow, read_row("stats", key), f"params.yaml: stats.{key}")
    compute = parse(Compute, read_section("compute"), "params.yaml: compute")

    import pandas

    from secateur import determinism
    from secateur.calibration.text import sample_examples
    from secateur.models.tokenizer import load_tokenizer
    from secateur.outputs import check_output
    from secateur.statistics.collect import collect
    from secateur.statistics.gradients import collect_gradients

    determinism.prepare(compute.threads, row.seed)
    model, corpus = ARTIFACTS / "models" / row.model, ARTIFACTS / "corpora" / row.corpus
    out, work = ARTIFACTS / "stats" / key, UNFINISHED / "stats" / key
    check_output(out, [model, corpus], force, work)
    provenance = {"model": identity(model), "corpus": identity(corpus)}
    if row.split not in (splits := [file.stem for file in sorted(corpus.glob("*.parquet"))]):
        raise unknown_name(f"split of {corpus}", row.split, splits)
    texts = pandas.read_parquet(corpus / f"{row.split}.parquet")["text"].tolist()
    examples = sample_examples(
        texts, load_tokenizer(model), samples=row.samples, length=row.length, seed=row.seed, sampler=row.sampler
    )
    settings = {**row.model_dump(), "provenance": provenance}
    kept = {"work": work, "settings": settings, "overwrite": force, "device": compute.device}
    if row.bundle == "gradients":
        collect_gradients(model, examples.windows(), out, **kept)
    else:
        collect(model, examples, row.bundle, out, **kept)
