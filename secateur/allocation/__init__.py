"""How a run's sparsity is spread over the blocks: names to functions, and tables given by the user."""

from collections.abc import Callable, Sequence

from secateur.allocation.uniform import uniform
from secateur.errors import UserError
from secateur.patterns import check_sparsity
from secateur.registry import Registry

Allocation = Callable[[float, int], list[float]]
ALLOCATIONS: Registry[Allocation] = Registry("allocation")
ALLOCATIONS.add("uniform", uniform)


def allocate(allocation: str | Sequence[float], sparsity: float, blocks: int) -> list[float]:
    """Sparsity of every block: by the named rule, or a table of one number a block whose mean is `sparsity`."""
    if isinstance(allocation, str):
        return ALLOCATIONS.get(allocation)(sparsity, blocks)
    if len(allocation) != blocks:
        raise UserError(f"allocation table has {len(allocation)} entries: must have one for each of the {blocks} blocks")
    for value in allocation:
        check_sparsity(value)
    mean = sum(allocation) / blocks
    if abs(mean - sparsity) > 1e-3:
        raise UserError(f"allocation table has the mean {mean:.4f}: must be the run's sparsity {sparsity} within 0.001")
    return list(allocation)
