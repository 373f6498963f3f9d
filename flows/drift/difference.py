"""One line of the table of differences."""

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What is to be said of something that is not equal in two states."""

    DIFFERS = "differs"
    BEYOND = "out of tolerance"
    MISSING = "missing"
    NEW = "new"
    UNSEALED = "not as dvc.lock says"
    WITHIN = "within tolerance"
    UNSEEN = "not compared"


HARMLESS = (Verdict.WITHIN, Verdict.UNSEEN)


@dataclass(frozen=True)
class Difference:
    """`what` is a path, an entry of a result file (`path: place`), a parameter or a command of `stage`; `before` and `after` are
    its values, as text."""

    stage: str
    what: str
    before: str
    after: str
    verdict: Verdict
    note: str = ""

    @property
    def drift(self) -> bool:
        """Whether the two states are not one because of this."""
        return self.verdict not in HARMLESS
