"""Rewrite the results in README.md from the default study's result files: `python -m stages readme`.

The part between the markers `<!-- results:begin -->` and `<!-- results:end -->` becomes the table and its plot, drawn
to `docs/smoke-perplexity.svg`. The same results give the same bytes, so CI can run it and look for a difference.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import UserError
from stages._io import read_params
from stages.report import read_studies

if TYPE_CHECKING:
    from stages.reporting.results import Study

STUDY = "smoke"
README = Path("README.md")
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
PLOT = Path("docs") / f"{STUDY}-perplexity.svg"


def run() -> None:
    """Write the table and the plot; refuses a README without the two markers, and leaves it alone then."""
    from secateur.artifacts import write_text
    from stages.reporting.markdown import perplexity_svg, summary

    text = README.read_text(encoding="utf-8") if README.is_file() else ""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{README} has no {BEGIN} followed by {END}; put them where the results belong")
    study = _default_study()
    image = perplexity_svg(study)
    body = summary(study)
    if image:
        write_text(PLOT, image)
        body += f"\n![Perplexity against sparsity]({PLOT.as_posix()})\n"
    write_text(README, f"{before}{BEGIN}\n{body}{END}{after}")


def _default_study() -> "Study":
    for study in read_studies(read_params()):
        if study.name == STUDY:
            return study
    raise UserError(f"the study {STUDY!r} is not selected; run `python -m pipelines use {STUDY}` and `dvc repro` first")
