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


def named_calibration(candidate: Candidate) -> str | None:
    """The calibration that decides anything about a run, and so belongs into its key: by its statistics or tokens, by its
    allocation, or by its gradients where the study names no other."""
    if needs_of(candidate) != "nothing":
        return candidate.calibration
    own_gradients = METHODS.get(candidate.method.name).gradients and not candidate.gradients
    return candidate.calibration if own_gradients else allocation_calibration(candidate)


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
