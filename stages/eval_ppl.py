"""Perplexity of one subject on one text: `python -m stages eval-ppl KEY`, with a key of the table `ppl` of params.yaml.

Reads the model (and the run's masks and values) and the corpus under `artifacts/`; writes `results/ppl/KEY.json`.
"""

from pipelines.schema import PerplexityRow, parse
from secateur.artifacts import identity, write_json
from stages._io import ARTIFACTS, RESULTS, read_row
from stages._subject import load_subject


def run(key: str) -> None:
    """Evaluate the row `key` and write its result."""
    from secateur.evaluation.perplexity import perplexity, read_text, tokenize

    row = parse(PerplexityRow, read_row("ppl", key), f"params.yaml: ppl.{key}")
    corpus = ARTIFACTS / "corpora" / row.corpus
    provenance = {"corpus": identity(corpus)}
    text = read_text(corpus, row.split, row.joiner, row.documents)
    model, tokenizer, subject_provenance = load_subject(row)
    figures = perplexity(model, tokenize(tokenizer, text), row.length, row.windows, row.protocol, progress=True)
    named = {"subject": row.subject, "corpus": row.corpus, "split": row.split}
    write_json(RESULTS / "ppl" / f"{key}.json", named | figures | {"provenance": provenance | subject_provenance})
