"""Which linears of a block get adapters, for any family, from names that papers use for LLaMA."""

from collections.abc import Sequence

from secateur.errors import unknown_name
from secateur.models.adapters import LLAMA_SITES, Adapter


def resolve_targets(targets: Sequence[str], adapter: Adapter) -> tuple[str, ...]:
    """Dotted paths in a block, in the order of the forward pass, of the linears that `targets` name.

    A target is a dotted path (`self_attn.q_proj`) or its last part. A name that only LLaMA's blocks have stands for the linears
    that read the same input: on GPT-2, whose queries, keys and values are one fused layer, `q_proj` and `v_proj` are
    `attn.c_attn`, and an adapter on it moves the keys too; on OPT `gate_proj` is `fc1`. Anything else is a `UserError` that lists
    the names.
    """
    chosen = {path for target in targets for path in _named(target, adapter)}
    return tuple(path for path in adapter.linears if path in chosen)


def _named(target: str, adapter: Adapter) -> tuple[str, ...]:
    if own := tuple(path for path in adapter.linears if target in (path, _last(path))):
        return own
    for llama, site in zip(LLAMA_SITES, adapter.sites, strict=True):
        if target in map(_last, llama.linears):
            return site.linears
    raise unknown_name(f"fine-tuning target of {adapter.family}", target, dict.fromkeys(map(_last, adapter.linears)))


def _last(path: str) -> str:
    return path.rpartition(".")[2]
