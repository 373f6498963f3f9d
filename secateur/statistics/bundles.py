"""The bundles of statistics, from nothing to the full second moment: each contains the ones before it."""

from collections.abc import Iterable

from secateur.errors import unknown_name

BUNDLES = ("nothing", "tokens", "moments", "gram", "outputs")
"""`tokens`: the calibration tokens alone. `moments`: per input channel. `gram`: the full XᵀX of every site as well. `outputs`:
also the norms of the inputs and of every linear's outputs, sequence by sequence."""


def bundle_covers(has: str, needs: str) -> bool:
    """Whether a bundle `has` holds everything that `needs` asks for."""
    for name in (has, needs):
        if name not in BUNDLES:
            raise unknown_name("statistics bundle", name, BUNDLES)
    return BUNDLES.index(has) >= BUNDLES.index(needs)


def join(needs: Iterable[str]) -> str:
    """The smallest bundle that covers all `needs`."""
    return max(needs, key=BUNDLES.index, default="nothing")
