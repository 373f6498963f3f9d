"""What the runs of a study have to know of their model: which statistics, and which of them one calibration serves."""

from collections.abc import Mapping

from pipelines.grid import Candidate, candidates
from pipelines.study import Choice, Study
from secateur.allocation import ALLOCATIONS
from secateur.methods import METHODS
from secateur.recovery import UPDATES
from secateur.refinement import REFINEMENTS
from secateur.statistics import join

Bundles = Mapping[tuple[str, str], str]


def needs_of(candidate: Candidate) -> str:
    """What the method, the refinement and the update of a run have to know: `nothing`, or a bundle."""
    parts = (METHODS.get(candidate.method.name), REFINEMENTS.get(candidate.refinement.name), UPDATES.get(candidate.update.name))
    return join([part.needs for part in parts])


def rule_of(candidate: Candidate) -> Choice | None:
    """The allocation rule that has to be worked out before the run; none for `uniform` and for tables."""
    allocation = candidate.allocation
    return None if isinstance(allocation, list) or allocation.name == "uniform" else allocation


def allocation_calibration(candidate: Candidate) -> str | None:
    """The calibration that the run's allocation rule reads, if it reads any."""
    rule = rule_of(candidate)
    return candidate.calibration if rule and ALLOCATIONS.get(rule.name).needs != "nothing" else None


def dense_bundles(studies: Mapping[str, Study]) -> Bundles:
    """(model, calibration) → the bundle that serves its `dense` runs and its allocations, or the one that its YAML asks for."""
    needs: dict[tuple[str, str], list[str]] = {}
    for study in studies.values():
        for candidate in candidates(study):
            if candidate.calibration is None:
                continue
            rule = rule_of(candidate)
            own = [needs_of(candidate)] if candidate.propagation == "dense" else []
            own += [ALLOCATIONS.get(rule.name).needs] if rule else []
            if (need := join(own)) != "nothing":
                explicit = study.calibrations[candidate.calibration].bundle
                needs.setdefault((candidate.model, candidate.calibration), []).append(explicit or need)
    return {pair: join(["tokens", *found]) for pair, found in needs.items()}
