"""What a run is, apart from its model and its calibration: method, target, propagation, allocation, refinement, update."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from secateur.errors import UserError, unknown_name
from secateur.methods import METHODS
from secateur.patterns import COUNTS, check_sparsity, parse_pattern
from secateur.recovery import UPDATES
from secateur.refinement import REFINEMENTS
from secateur.registry import Registry
from secateur.shares import DENSE, check_table
from secateur.statistics.bundles import join

if TYPE_CHECKING:
    from secateur.methods.base import Method, Target
    from secateur.recovery.base import Update
    from secateur.refinement.base import Refinement

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
    allocation: str | Sequence[float | str] = "uniform"
    refinement: str = "none"
    update: str = "none"
    options: Mapping[str, Any] = field(default_factory=dict)
    refinement_options: Mapping[str, Any] = field(default_factory=dict)
    update_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.propagation not in PROPAGATIONS:
            raise unknown_name("propagation", self.propagation, PROPAGATIONS)
        group = parse_pattern(self.pattern)
        if group is None and self.sparsity is None:
            raise UserError("an unstructured recipe needs a sparsity")
        if group is not None:
            nominal = group[0] / group[1]
            if self.sparsity is not None and self.sparsity != nominal:
                raise UserError(f"sparsity {self.sparsity}: pattern {self.pattern} is {nominal}; leave the sparsity out")
            object.__setattr__(self, "sparsity", nominal)
        check_sparsity(self.sparsity)  # pyright: ignore[reportArgumentType]  # it is no number only if the caller gave none
        if self.count not in COUNTS:
            raise UserError(f"count {self.count!r}: must be {' or '.join(map(repr, COUNTS))}")
        if isinstance(self.allocation, str) and self.allocation != "uniform":
            raise UserError(f"allocation {self.allocation!r}: must be 'uniform' or a table; secateur.allocate makes one")

    def build_method(self) -> "Method":
        """The method with its options; an unknown option is a `UserError`."""
        return _build(METHODS, self.method, self.options)

    def build_refinement(self) -> "Refinement":
        """What improves the mask."""
        return _build(REFINEMENTS, self.refinement, self.refinement_options)

    def build_update(self) -> "Update":
        """What fits the survivors to the mask in the end."""
        return _build(UPDATES, self.update, self.update_options)

    @property
    def needs(self) -> str:
        """The statistics bundle that the method, the refinement and the update need together."""
        return join([METHODS.get(self.method).needs, REFINEMENTS.get(self.refinement).needs, UPDATES.get(self.update).needs])

    def targets(self, blocks: int) -> "list[Target]":
        """The target of every block."""
        from secateur.methods.base import Target

        assert self.sparsity is not None  # set by __post_init__
        if isinstance(self.allocation, str):
            return [Target(self.sparsity, self.pattern, self.count)] * blocks
        check_table(self.allocation, self.sparsity, self.pattern, blocks)
        return [self._target(entry) for entry in self.allocation]

    def check_widths(self, widths: "Mapping[str, tuple[int, int]]") -> None:
        """A `UserError` unless every linear, [out, in] by its path, has whole groups of the recipe's pattern."""
        if group := parse_pattern(self.pattern):
            for path, (_, inputs) in widths.items():
                if inputs % group[1]:
                    raise UserError(
                        f"pattern {self.pattern}: {path}: the layer's {inputs} inputs are not divisible by {group[1]}"
                    )

    def _target(self, entry: float | str) -> "Target":
        from secateur.methods.base import Target

        if not isinstance(entry, str):
            return Target(entry, self.pattern, self.count)
        n, m = (0, 1) if entry == DENSE else map(int, entry.split(":"))
        return Target(n / m, entry if n else "unstructured", self.count)

    def settings(self) -> dict[str, Any]:
        """Everything that defines the run, as JSON values."""
        return asdict(self)


def _build(registry: Registry[Any], name: str, options: Mapping[str, Any]) -> Any:
    kind: Any = registry.get(name)
    known = [option.name for option in fields(kind)] if is_dataclass(kind) else []
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    try:
        return registry.get(name)(**options)
    except TypeError as error:  # a rule about numbers met something else
        raise UserError(f"options of {name} {dict(options)}: {error}") from None
