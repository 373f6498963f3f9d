"""One writer at a time for each address and experiment, on this machine."""

from contextlib import AbstractContextManager

from flows.locks import holding, private
from flows.tracking.address import address, experiment_name


def alone() -> AbstractContextManager[None]:
    """Wait until no other process of this user writes there."""
    return holding(private("track", f"{address()} {experiment_name()}"), "writes there")
