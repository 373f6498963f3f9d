"""secateur: every published way to prune a language model, on any model, block by block, reproducibly.

    tokens = secateur.sample(texts, tokenizer, samples=16, length=512)
    secateur.prune("model", secateur.Recipe("wanda", sparsity=0.5), "pruned", tokens=tokens)
    model = secateur.assemble("model", "pruned")

Names are imported when first used, so that `import secateur` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.allocation.table import allocate as allocate
    from secateur.api import calibrate as calibrate
    from secateur.api import gradients as gradients
    from secateur.api import prune as prune
    from secateur.calibration.text import sample as sample
    from secateur.errors import UserError as UserError
    from secateur.evaluation.perplexity import perplexity as perplexity
    from secateur.methods import METHODS as METHODS
    from secateur.models.load import assemble as assemble
    from secateur.models.load import load as load
    from secateur.recipe import Recipe as Recipe

_HOMES = {
    "METHODS": "secateur.methods",
    "Recipe": "secateur.recipe",
    "UserError": "secateur.errors",
    "allocate": "secateur.allocation.table",
    "assemble": "secateur.models.load",
    "calibrate": "secateur.api",
    "gradients": "secateur.api",
    "load": "secateur.models.load",
    "perplexity": "secateur.evaluation.perplexity",
    "prune": "secateur.api",
    "sample": "secateur.calibration.text",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
