"""Zero-shot accuracy of one subject: `python -m stages eval-zeroshot KEY`, KEY being a row of `zeroshot` in params.yaml.

Reads the model (and the run's masks and values) and the tasks' documents under `artifacts/`; writes
`results/zeroshot/KEY.json`. Needs no network.
"""

from pipelines.schema import ZeroshotRow, parse
from secateur.artifacts import identity, write_json
from stages._io import ARTIFACTS, RESULTS, read_row
from stages._subject import load_subject


def run(key: str) -> None:
    """Evaluate the row `key` and write its result."""
    from secateur.evaluation.zeroshot import evaluate

    row = parse(ZeroshotRow, read_row("zeroshot", key), f"params.yaml: zeroshot.{key}")
    data = ARTIFACTS / "tasks" / row.data
    provenance = {"tasks": identity(data)}
    model, tokenizer, subject_provenance = load_subject(row)
    figures = evaluate(model, tokenizer, data, row.tasks, row.limit, progress=True)
    named = {"subject": row.subject, "data": row.data}
    write_json(RESULTS / "zeroshot" / f"{key}.json", named | figures | {"provenance": provenance | subject_provenance})
