"""One writer at a time for each address and experiment, on this machine."""

import hashlib
from contextlib import AbstractContextManager

from flows.locks import holding, private_folder
from flows.tracking.address import address, experiment_name


def alone() -> AbstractContextManager[None]:
    """Wait until no other process of this user writes there."""
    name = hashlib.sha256(f"{address()} {experiment_name()}".encode()).hexdigest()[:32]
    return holding(private_folder("track") / f"{name}.lock", "writes there")
