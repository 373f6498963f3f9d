"""The table of an allocation: one entry a block, a sparsity or a pattern; made by a rule or given by the user."""

from collections.abc import Sequence

from secateur.errors import UserError
from secateur.patterns import check_sparsity, parse_pattern

DENSE = "dense"  # the entry of a table that leaves a block alone, where the others are patterns


def check_table(table: Sequence[float | str], sparsity: float, pattern: str, blocks: int) -> None:
    """Refuse a table that does not fit the run: one entry a block, sparsities with the run's mean, or patterns of its m."""
    if len(table) != blocks:
        raise UserError(f"allocation table has {len(table)} entries: must have one for each of the {blocks} blocks")
    group = parse_pattern(pattern)
    if group is None:
        shares = [entry for entry in table if not isinstance(entry, str)]
        if len(shares) != blocks:
            raise UserError("an allocation table of an unstructured run holds sparsities, not patterns")
        for share in shares:
            check_sparsity(share)
        mean = sum(shares) / blocks
        if abs(mean - sparsity) > 1e-3:
            raise UserError(f"allocation table has the mean {mean:.4f}: must be the run's sparsity {sparsity} within 0.001")
        return
    for entry in table:
        own = parse_pattern(entry) if isinstance(entry, str) and entry != DENSE else None
        if entry != DENSE and (own is None or own[1] != group[1]):
            raise UserError(f"allocation table entry {entry!r}: must be a pattern n:{group[1]}, or {DENSE!r}")
