"""What secateur uses of transformers beyond its public interface: fails, and says why, when an upgrade changes it."""

import inspect

import torch
from transformers import core_model_loading, initialization, modeling_utils
from transformers.conversion_mapping import get_model_conversion_mapping

from secateur.models import conversion
from tests.architectures import build


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # pyright: ignore[reportArgumentType]


def test_signatures_are_those_that_conversion_calls() -> None:
    assert parameters(get_model_conversion_mapping)[:1] == ["model"]
    assert parameters(core_model_loading.rename_source_key)[:5] == [
        "source_key",
        "weight_renamings",
        "weight_converters",
        "base_model_prefix",
        "meta_state_dict",
    ]
    assert parameters(core_model_loading.revert_weight_conversion) == ["model", "state_dict"]
    assert parameters(core_model_loading.WeightConverter.add_tensor)[1:] == [
        "target_key",
        "source_key",
        "source_pattern",
        "future",
    ]
    assert parameters(core_model_loading.WeightConverter.convert)[1:4] == ["layer_name", "model", "config"]
    assert parameters(modeling_utils.PreTrainedModel._init_weights) == ["self", "module"]
    assert callable(initialization.guard_torch_init_functions)


def test_attributes_that_say_how_a_model_is_loaded_are_still_there() -> None:
    names = (
        "_keys_to_ignore_on_load_unexpected",
        "_keys_to_ignore_on_save",
        "_keep_in_fp32_modules",
        "_keep_in_fp32_modules_strict",
    )
    assert all(hasattr(modeling_utils.PreTrainedModel, name) for name in names)
    assert build("llama", tie_word_embeddings=True).all_tied_weights_keys == {"lm_head.weight": "model.embed_tokens.weight"}


def test_natural_order_puts_expert_2_before_expert_10() -> None:
    assert sorted(["e.10.w", "e.2.w"], key=core_model_loading.dot_natural_key) == ["e.2.w", "e.10.w"]


def test_the_initialisation_leaves_loaded_tensors_alone() -> None:
    """Swin keeps a stored bias table and a computed index in one module: computing the one must not touch the other."""
    model = build("swin")
    name, module = next((name, module) for name, module in model.named_modules() if "relative_position_index" in module._buffers)
    before, index = module.relative_position_bias_table.clone(), module.relative_position_index.clone()
    module._buffers["relative_position_index"] = index.to("meta")
    module.relative_position_bias_table._is_hf_initialized = True
    conversion.compute_buffers(model, {name: module}, torch.device("cpu"))
    assert torch.equal(module.relative_position_bias_table, before) and torch.equal(module.relative_position_index, index)


def test_merged_experts_go_back_to_their_stock_names() -> None:
    model = build("mixtral")
    inside = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("model.layers.1.")}
    names = set(conversion.stock_names(model, inside))
    assert "model.layers.1.block_sparse_moe.experts.3.w2.weight" in names and not any("gate_up_proj" in name for name in names)
