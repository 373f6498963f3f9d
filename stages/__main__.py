"""The stages as commands: `python -m stages STAGE KEY`, as dvc.yaml calls them, and a few that look at finished work.

KEY is a row of the stage's table in params.yaml (`python -m pipelines show` lists them all).
"""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from stages._io import offline_and_silent, one_line_errors

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
Key = Annotated[str, typer.Argument(help="a row of this stage's table in params.yaml")]
Finished = Annotated[
    str, typer.Argument(metavar="SUBJECT", help="a run, or a fine-tuned run, as `report` in params.yaml names them")
]


Force = Annotated[bool, typer.Option("--force", help="replace what an earlier run of secateur wrote there")]


@app.callback()
def before_any_stage() -> None:
    offline_and_silent()


@app.command()
@one_line_errors
def download(key: Key, force: Force = False) -> None:
    """Fetch a model, a corpus or task data, and turn it into safetensors or parquet."""
    import_module("stages.download").run(key, force)


@app.command()
@one_line_errors
def calibrate_stats(key: Key, force: Force = False) -> None:
    """Draw the calibration tokens and keep statistics of what each layer sees of them."""
    import_module("stages.calibrate_stats").run(key, force)


@app.command()
@one_line_errors
def allocate(key: Key) -> None:
    """Spread a sparsity over the blocks of a model by a rule such as OWL."""
    import_module("stages.allocate").run(key)


@app.command()
@one_line_errors
def prune(key: Key, force: Force = False) -> None:
    """Prune a model block by block; continues where an interrupted run stopped."""
    import_module("stages.prune").run(key, force)


@app.command()
@one_line_errors
def lora_finetune(key: Key, force: Force = False) -> None:
    """Train what pruning left, with LoRA or directly, without filling a zero; continues where it was killed."""
    import_module("stages.lora_finetune").run(key, force)


@app.command()
@one_line_errors
def eval_ppl(key: Key) -> None:
    """Measure the perplexity of a dense or pruned model on held-out text."""
    import_module("stages.eval_ppl").run(key)


@app.command()
@one_line_errors
def eval_zeroshot(key: Key) -> None:
    """Measure zero-shot accuracy with lm-eval."""
    import_module("stages.eval_zeroshot").run(key)


@app.command()
@one_line_errors
def report() -> None:
    """Gather all results into results/report.html and results/report.csv."""
    import_module("stages.report").run()


@app.command()
@one_line_errors
def readme() -> None:
    """Write the tables and plots of the selected studies into README.md and docs/, between their markers."""
    import_module("stages.readme").run()


@app.command()
@one_line_errors
def export(
    subject: Finished,
    to: Annotated[Path, typer.Option(help="a folder that does not exist yet")],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16 for all tensors; else each keeps its own")
    ] = None,
    check: Annotated[bool, typer.Option(help="load the result once with stock code, which takes memory for all of it")] = True,
    force: Force = False,
) -> None:
    """Write a run, fine-tuned or not, as a plain checkpoint that stock `from_pretrained` loads."""
    import_module("stages.export").run(subject, to, dtype, check, force)


@app.command()
@one_line_errors
def verify(subject: Finished) -> None:
    """Recompute checksums, sparsity and pattern of a run, and the zeros of a fine-tuned one, from their files."""
    import_module("stages.verify").run(subject)


if __name__ == "__main__":
    app(prog_name="python -m stages")
