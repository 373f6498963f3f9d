"""Train what a run left: `python -m stages lora-finetune KEY` (KEY: a row of `finetunes`).

On several GPUs: `accelerate launch --num_processes N --module stages lora-finetune KEY`. A training that was killed continues
from its last checkpoint in artifacts/unfinished and ends with the same bytes. MLFLOW_TRACKING_URI names who watches it.
"""

import os
from pathlib import Path
from typing import Any

from pipelines.schema import Compute, FineTuneRow, parse
from secateur.artifacts import identity, read_json, sha256, write_json, write_text
from stages._io import ARTIFACTS, RESULTS, UNFINISHED, read_row, read_section
from stages._live import live


def run(key: str, force: bool = False) -> None:
    """Write artifacts/adapters/KEY, results/finetune/KEY.json and the curve results/loss/KEY.csv. With `force` the first may be
    there already."""
    row = parse(FineTuneRow, read_row("finetunes", key), f"params.yaml: finetunes.{key}")
    compute = parse(Compute, read_section("compute"), "params.yaml: compute")

    from secateur import determinism
    from secateur.examples import Examples
    from secateur.finetune.recipes import recipe
    from secateur.finetune.train import finetune
    from secateur.outputs import check_output

    settings = recipe(row.recipe, **row.options, train=row.training)
    determinism.prepare(compute.threads, settings.seed)
    model, pruned, out = ARTIFACTS / "models" / row.model, ARTIFACTS / row.source, ARTIFACTS / "adapters" / key
    held_out = None if row.validation == row.source else ARTIFACTS / row.validation
    work = UNFINISHED / "adapters" / key
    check_output(out, [model, pruned, ARTIFACTS / row.data, held_out], force, work)
    provenance = {
        "model": identity(model),
        "masks": identity(pruned),
        "data": sha256(_tokens_file(ARTIFACTS / row.data)),
        "validation": sha256(_tokens_file(held_out)) if held_out else None,
    }
    examples = Examples.read(_tokens_file(ARTIFACTS / row.data))
    shown = settings.settings() | {"length": examples.length, "blocks": len(examples)} | row.model_dump(exclude={"options"})
    decisive = {"settings": row.model_dump(), "provenance": provenance}
    with live(f"lora-finetune@{key}", key, shown, decisive, resume=work.exists()):
        curve = finetune(
            model,
            pruned,
            examples,
            out,
            work=work,
            settings=settings,
            held_out=Examples.read(_tokens_file(held_out)) if held_out else None,
            provenance=provenance,
            overwrite=force,
            device=compute.device,
        )
    if os.environ.get("RANK", "0") != "0":  # of several processes the first one speaks
        return
    outcome: dict[str, Any] = read_json(out / "outcome.json")
    named = {"finetune": key, "settings": row.model_dump(), "provenance": {**provenance, "adapter": identity(out)}}
    write_json(RESULTS / "finetune" / f"{key}.json", named | outcome | {"curve": [step._asdict() for step in curve]})
    write_text(RESULTS / "loss" / f"{key}.csv", (out / "loss.csv").read_text(encoding="utf-8"))


def _tokens_file(folder: Path) -> Path:
    return folder / "tokens.safetensors"
