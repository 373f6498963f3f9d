"""What a study may not say about padded examples and about the corpora that they are made of."""

from collections.abc import Iterator

from pipelines.grid import Candidate
from pipelines.needs import named_calibration
from pipelines.study import Catalogue, Study
from secateur.calibration import PADDED, SAMPLERS
from secateur.methods import METHODS


def calibrations(study: Study, catalogue: Catalogue) -> Iterator[str]:
    """Samplers and corpora that do not fit each other, and statistics of what is padded."""
    for name, calibration in study.calibrations.items():
        where, sampler, corpus = f"calibrations.{name}", calibration.sampler, calibration.corpus
        if sampler not in SAMPLERS or corpus not in catalogue.corpora:
            continue
        columns = catalogue.corpora[corpus].columns
        if sampler not in PADDED:
            if columns:
                yield f"{where}.sampler: {sampler!r}: must be {' or '.join(PADDED)}; the documents of {corpus} are no plain text"
            continue
        needed = PADDED[sampler]
        if not set(needed) <= set(columns or []):
            has = f"the columns {', '.join(columns)}" if columns else "plain text"
            yield f"{where}.corpus: {corpus}: has {has}; sampler {sampler} needs the columns {', '.join(needed)}"
        if calibration.bundle not in (None, "tokens"):
            yield f"{where}.bundle: {calibration.bundle!r}: must be 'tokens'; sampler {sampler} makes padded examples"


def perplexity(study: Study, catalogue: Catalogue) -> Iterator[str]:
    """Perplexities of what is no plain text."""
    for index, entry in enumerate(study.perplexity):
        if entry.corpus in catalogue.corpora and catalogue.corpora[entry.corpus].columns:
            yield f"perplexity[{index}].corpus: {entry.corpus}: its documents are no plain text; use a corpus without columns"


def of_run(candidate: Candidate, study: Study) -> Iterator[str]:
    """Padded examples in the place of the windows that a run reads. All names of the run must be known."""
    gradients = candidate.gradients if METHODS.get(candidate.method.name).gradients else None
    for axis, name in (("calibration", named_calibration(candidate)), ("gradients", gradients)):
        if name is not None and (sampler := study.calibrations[name].sampler) in PADDED:
            yield f"{candidate.where}.{axis}: {name}: sampler {sampler} makes padded examples, which only a finetune can read"
