"""What secateur must know about a model family, as data: where its blocks are and which linears share an input.

A *site* is one input that several linears read (q, k and v; gate and up). Statistics are kept per site. Sites are listed
in the order in which a forward pass reaches them, because `propagation: site` prunes them in that order.
"""

from collections.abc import Callable
from dataclasses import dataclass

from secateur.errors import UserError, unknown_name
from secateur.models.config import Config, with_defaults


@dataclass(frozen=True)
class Site:
    """A named input of a block, and the linears (dotted paths in the block) that read it."""

    name: str
    linears: tuple[str, ...]


@dataclass(frozen=True)
class Adapter:
    """One family. `config` arguments are parsed `config.json` files, so nothing here needs torch."""

    family: str
    blocks_path: str
    sites: tuple[Site, ...]
    keys: tuple[str, ...]
    sizes_of: Callable[[Config], "Sizes"]

    def sizes(self, config: Config) -> "Sizes":
        """Its numbers, with the family's defaults for the `keys` that a configuration leaves out."""
        for key in self.keys:
            value = config.get(key, 1)
            if not (value is None and key in INHERITED) and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise UserError(f"{key} {value!r}: must be a whole number of at least 1")
        return self.sizes_of(with_defaults(config, self.keys))

    def blocks(self, config: Config) -> int:
        """Number of transformer blocks."""
        return self.sizes(config).blocks

    def context(self, config: Config) -> int:
        """The longest sequence, in tokens, that the model accepts."""
        return self.sizes(config).context

    def widths(self, config: Config) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) of every prunable linear of one block, by dotted path, in site order."""
        return dict(self.sizes(config).linears)

    @property
    def linears(self) -> tuple[str, ...]:
        """Dotted paths of all prunable linears of one block, in site order."""
        return tuple(linear for site in self.sites for linear in site.linears)


@dataclass(frozen=True)
class Sizes:
    """The numbers of one concrete model that validation and estimates need."""

    blocks: int
    context: int
    vocabulary: int
    hidden: int
    linears: tuple[tuple[str, tuple[int, int]], ...]


LLAMA_SITES = (
    Site("attention_input", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Site("attention_output", ("self_attn.o_proj",)),
    Site("mlp_input", ("mlp.gate_proj", "mlp.up_proj")),
    Site("mlp_output", ("mlp.down_proj",)),
)
OPT_SITES = (
    Site("attention_input", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    Site("attention_output", ("self_attn.out_proj",)),
    Site("mlp_input", ("fc1",)),
    Site("mlp_output", ("fc2",)),
)
GPT2_SITES = (
    Site("attention_input", ("attn.c_attn",)),
    Site("attention_output", ("attn.c_proj",)),
    Site("mlp_input", ("mlp.c_fc",)),
    Site("mlp_output", ("mlp.c_proj",)),
)


INHERITED = ("num_key_value_heads", "head_dim")  # null: they follow from the others
LLAMA_KEYS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"),
    *("vocab_size", "max_position_embeddings"),
)
OPT_KEYS = ("hidden_size", "ffn_dim", "num_hidden_layers", "vocab_size", "max_position_embeddings")
GPT2_KEYS = ("n_embd", "n_layer", "n_positions", "vocab_size")


def _sizes(blocks: int, context: int, config: Config, hidden: int, sites: tuple[Site, ...], *shapes: tuple[int, int]) -> Sizes:
    names = [linear for site in sites for linear in site.linears]
    return Sizes(blocks, context, config["vocab_size"], hidden, tuple(zip(names, shapes, strict=True)))


def _llama_sizes(config: Config) -> Sizes:
    hidden, heads, mlp = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    attention = ((queries, hidden), (keys, hidden), (keys, hidden), (hidden, queries))
    depth, context = config["num_hidden_layers"], config["max_position_embeddings"]
    return _sizes(depth, context, config, hidden, LLAMA_SITES, *attention, (mlp, hidden), (mlp, hidden), (hidden, mlp))


def _opt_sizes(config: Config) -> Sizes:
    hidden, mlp = config["hidden_size"], config["ffn_dim"]
    depth, context = config["num_hidden_layers"], config["max_position_embeddings"]
    return _sizes(depth, context, config, hidden, OPT_SITES, *[(hidden, hidden)] * 4, (mlp, hidden), (hidden, mlp))


def _gpt2_sizes(config: Config) -> Sizes:
    hidden = config["n_embd"]
    mlp = config.get("n_inner") or 4 * hidden
    shapes = ((3 * hidden, hidden), (hidden, hidden), (mlp, hidden), (hidden, mlp))
    return _sizes(config["n_layer"], config["n_positions"], config, hidden, GPT2_SITES, *shapes)


_ADAPTERS = {
    **{
        family: Adapter(family, "model.layers", LLAMA_SITES, LLAMA_KEYS, _llama_sizes) for family in ("llama", "mistral", "qwen2")
    },
    # Qwen3 has a head size of its own, which does not follow from the others.
    "qwen3": Adapter("qwen3", "model.layers", LLAMA_SITES, (*LLAMA_KEYS, "head_dim"), _llama_sizes),
    "opt": Adapter("opt", "model.decoder.layers", OPT_SITES, OPT_KEYS, _opt_sizes),
    "gpt2": Adapter("gpt2", "transformer.h", GPT2_SITES, GPT2_KEYS, _gpt2_sizes),
}
FAMILIES = tuple(sorted(_ADAPTERS))


def adapter_for(config: Config) -> Adapter:
    """The adapter of a parsed `config.json`; an unsupported `model_type` is a `UserError`."""
    family = str(config.get("model_type"))
    if family not in _ADAPTERS:
        from transformers import CONFIG_MAPPING  # takes seconds: here only

        if family in CONFIG_MAPPING:  # nobody mistyped it, and the weights of one family are nonsense to another
            raise UserError(f"secateur cannot prune the model family {family!r} yet (it can: {', '.join(FAMILIES)})")
        raise unknown_name("model family", family, _ADAPTERS)
    return _ADAPTERS[family]
