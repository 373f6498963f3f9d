"""Tiny random models of 41 architectures, text and images, with what is special in each: what a reader has to cope with."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BARE = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
EXPERTS = SMALL | {"num_experts": 4, "num_experts_per_tok": 2}
IMAGES = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 32, "patch_size": 8, "num_labels": 9}
STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "image_size": 64, "num_labels": 10}

PLAIN = ("llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "olmo2", "smollm3", "starcoder2", "glm4", "ernie4_5")
TEXT: dict[str, dict[str, Any]] = {name: SMALL for name in (*PLAIN, "seed_oss", "stablelm", "nemotron")} | {
    "gemma2": SMALL | {"sliding_window": 6},
    "gemma3_text": SMALL
    | {
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    },
    "cohere2": SMALL | {"sliding_window": 6},
    "exaone4": SMALL | {"sliding_window": 6, "sliding_window_pattern": 4},
    "qwen2_windows": SMALL | {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    "deepseek_v3": SMALL
    | {
        "head_dim": 8,
        "n_routed_experts": 4,
        "moe_intermediate_size": 32,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 16,
        "num_key_value_heads": 4,
        "first_k_dense_replace": 1,
    },
    "granitemoehybrid": SMALL
    | {
        "layer_types": ["mamba", "attention", "mamba", "attention"],
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "mamba_n_heads": 8,
        "mamba_d_head": 16,
        "mamba_d_state": 16,
        "shared_intermediate_size": 32,
    },
    "jamba": SMALL
    | {
        "num_experts": 4,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "mamba_d_state": 8,
    },
    "falcon": BARE,
    "falcon_new": BARE | {"num_kv_heads": 2, "new_decoder_architecture": True},
    "falcon_alibi": BARE | {"alibi": True},
    "gpt_oss": SMALL | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": SMALL | {"num_local_experts": 4},
    "qwen3_moe": EXPERTS | {"moe_intermediate_size": 32},
    "olmoe": EXPERTS,
    "qwen3_next": EXPERTS
    | {
        "moe_intermediate_size": 32,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 16,
        "linear_value_head_dim": 16,
    },
    "gpt_neox": {key: value for key, value in SMALL.items() if key not in ("head_dim", "num_key_value_heads")},
    "bloom": {"vocab_size": 300, "hidden_size": 64, "n_layer": 4, "n_head": 4},
    "opt": BARE | {"ffn_dim": 96, "max_position_embeddings": 128, "word_embed_proj_dim": 64},
    "gpt2": {"vocab_size": 300, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 128},
    "mamba": {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 4},
}
VISION: dict[str, dict[str, Any]] = {
    "vit": IMAGES | {"intermediate_size": 96},
    "deit": IMAGES | {"intermediate_size": 96},
    "dinov2": IMAGES,
    "convnext": STAGES,
    "convnextv2": STAGES,
    "swin": {
        "embed_dim": 16,
        "depths": [1, 1, 2, 1],
        "num_heads": [2, 2, 4, 4],
        "image_size": 64,
        "window_size": 2,
        "patch_size": 4,
        "num_labels": 10,
    },
}
ARCHITECTURES = TEXT | VISION
MODEL_TYPES = {"falcon_new": "falcon", "falcon_alibi": "falcon", "qwen2_windows": "qwen2"}


def auto_class(name: str) -> Any:
    """The stock class that loads it."""
    from transformers import AutoModelForCausalLM, AutoModelForImageClassification

    return AutoModelForCausalLM if name in TEXT else AutoModelForImageClassification


def build(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A random model of the architecture, nothing in it zero or one, which could hide a mistake: norms, biases, layer scales."""
    from transformers import AutoConfig

    torch.manual_seed(0)
    config = AutoConfig.for_model(MODEL_TYPES.get(name, name), **(ARCHITECTURES[name] | changes))
    if name == "deit":  # two classes share DeiT's configuration
        config.architectures = ["DeiTForImageClassification"]
    model = auto_class(name).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3).add_(torch.randn_like(parameter) * (0.1 if parameter.dim() == 1 else 0.02))
        for key, buffer in model.named_buffers():
            if key in model.state_dict() and buffer.is_floating_point():
                buffer.add_(torch.randn_like(buffer) * 0.05)
    return model.to(dtype)


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32, shard: str = "50GB", **options: Any) -> Path:
    """Save it as `save_pretrained` does."""
    build(name, dtype).save_pretrained(folder, max_shard_size=shard, **options)
    return folder


def inputs(name: str) -> dict[str, Tensor]:
    """Two examples that the model takes."""
    generator = torch.Generator().manual_seed(1)
    if name in TEXT:
        return {"input_ids": torch.randint(3, 300, (2, 12), generator=generator)}
    size = ARCHITECTURES[name]["image_size"]
    return {"pixel_values": torch.randn(2, 3, size, size, generator=generator)}


def logits(model: Any, name: str) -> Tensor:
    """What the model says to `inputs`."""
    given = {key: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for key, tensor in inputs(name).items()}
    with torch.no_grad():
        return model(**given).logits
