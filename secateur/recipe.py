"""What a run is, apart from its model and its calibration: method, target, propagation, allocation and weight update."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from secateur.allocation import allocate
from secateur.errors import UserError, unknown_name
from secateur.methods import METHODS
from secateur.patterns import parse_pattern
from secateur.recovery import UPDATES
from secateur.statistics.bundles import join

if TYPE_CHECKING:
    from secateur.methods.base import Method, Target
    from secateur.recovery.base import Update

PROPAGATIONS = ("dense", "block", "site")
"""Where the statistics of a linear come from.

`dense`: the dense model; one calibration serves every run. `block`: as the papers do, the block with dense weights, fed by
the pruned blocks before it; two forward passes. `site`: the block whose earlier linears are pruned already; one pass.
"""


@dataclass(frozen=True)
class Recipe:
    """One way to prune, in the words of the study files. With an n:m `pattern` the sparsity is n / m."""

    method: str
    sparsity: float | None = None
    pattern: str = "unstructured"
    count: str = "reference"
    propagation: str = "site"
    allocation: str | Sequence[float] = "uniform"
    update: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.propagation not in PROPAGATIONS:
            raise unknown_name("propagation", self.propagation, PROPAGATIONS)
        group = parse_pattern(self.pattern)
        if group is None and self.sparsity is None:
            raise UserError("an unstructured recipe needs a sparsity")
        if group is not None:
            nominal = group[0] / group[1]
            if self.sparsity is not None and abs(self.sparsity - nominal) > 1e-9:
                raise UserError(f"sparsity {self.sparsity}: pattern {self.pattern} is {nominal}; leave the sparsity out")
            if self.allocation != "uniform":
                raise UserError(f"pattern {self.pattern} fixes the sparsity of every block: allocation must be 'uniform'")
            object.__setattr__(self, "sparsity", nominal)

    def build_method(self) -> "Method":
        """The method with its options; an unknown option is a `UserError`."""
        method = METHODS.get(self.method)
        known = [option.name for option in fields(method)]  # pyright: ignore[reportArgumentType]
        for option in self.options:
            if option not in known:
                raise unknown_name(f"option of {self.method}", option, known)
        return method(**self.options)

    def build_update(self) -> "Update":
        """The weight update; refused after a method that already updates weights."""
        update = UPDATES.get(self.update)()
        if update.updates_weights and METHODS.get(self.method).updates_weights:
            raise UserError(f"update {self.update!r} after {self.method}: that method updates the weights itself; use 'none'")
        return update

    @property
    def needs(self) -> str:
        """The statistics bundle that the method and the update need together."""
        return join([METHODS.get(self.method).needs, UPDATES.get(self.update).needs])

    def targets(self, blocks: int) -> "list[Target]":
        """The target of every block."""
        from secateur.methods.base import Target

        assert self.sparsity is not None  # set by __post_init__
        shares = allocate(self.allocation, self.sparsity, blocks)
        return [Target(share, self.pattern, self.count) for share in shares]

    def settings(self) -> dict[str, Any]:
        """Everything that defines the run, as JSON values."""
        return asdict(self)
