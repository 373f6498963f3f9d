"""Rewrite the results in README.md from the result files of the selected studies: `python -m stages readme`.

The part between the markers `<!-- smoke:begin -->` and `<!-- smoke:end -->` becomes the table of the study `smoke` and its plot,
drawn to `docs/smoke-perplexity.svg`; so does that of every selected study that has markers. The same results give the same
bytes, so CI can run it and look for a difference.
"""

from pathlib import Path

from secateur.errors import UserError
from stages._io import read_params
from stages.report import read_studies

README = Path("README.md")


def markers(study: str) -> tuple[str, str]:
    """What stands before and after the results of a study."""
    return f"<!-- {study}:begin -->", f"<!-- {study}:end -->"


def plot(study: str) -> Path:
    """Where the picture of a study lies."""
    return Path("docs") / f"{study}-perplexity.svg"


def run() -> None:
    """Write tables and plots; a README without markers of any selected study is refused and left alone."""
    from secateur.artifacts import write_text
    from stages.reporting.markdown import perplexity_svg, summary

    text = README.read_text(encoding="utf-8") if README.is_file() else ""
    studies = read_studies(read_params())
    written = False
    for study in studies:
        if parts := _parts(text, study.name):
            begin, end = markers(study.name)
            body, image = summary(study), perplexity_svg(study)
            if image:
                write_text(plot(study.name), image)
                body += f"\n![Perplexity against sparsity]({plot(study.name).as_posix()})\n"
            text, written = f"{parts[0]}{begin}\n{body}{end}{parts[1]}", True
    if not written:
        begin, end = markers(studies[0].name)
        raise UserError(f"{README} has no results of {', '.join(study.name for study in studies)}; put {begin} and {end} into it")
    write_text(README, text)


def _parts(text: str, study: str) -> tuple[str, str] | None:
    """What lies before and after the results of a study; None where a marker is missing."""
    begin, end = markers(study)
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    return (before, after) if found and ended else None
