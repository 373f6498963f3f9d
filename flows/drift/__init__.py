"""Two states of the pipeline, and whether they are one: today's against what was committed, or yesterday's."""

from flows.drift.compare import differences
from flows.drift.difference import Difference, Verdict
from flows.drift.report import summary, table
from flows.drift.state import State, read_state

__all__ = ["Difference", "State", "Verdict", "differences", "read_state", "summary", "table"]
