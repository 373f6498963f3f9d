"""The same sparsity in every block."""


def uniform(sparsity: float, blocks: int) -> list[float]:
    """s_ℓ = s."""
    return [sparsity] * blocks
