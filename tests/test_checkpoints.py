"""A checkpoint is read once and rightly, or refused in one line that names what is wrong: nothing is made up or guessed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import secateur
from secateur import Recipe, UserError
from tests.checkpoints import (
    GONE,
    Tensors,
    add,
    copy_of,
    drop,
    edit_json,
    edit_tensors,
    prefix,
    rename,
    shard,
    streamed_logits,
    whole_logits,
)

TinyModel = Callable[[str], Path]
Spoil = Callable[[Path], object]


def tensors(change: Callable[[Tensors], Tensors]) -> Spoil:
    return lambda folder: edit_tensors(folder, change)


def config(**changes: Any) -> Spoil:
    return lambda folder: edit_json(folder / "config.json", **changes)


def index(change: Callable[[dict[str, Any], Path], object]) -> Spoil:
    """Shard the checkpoint, then change the table of the index."""

    def spoil(folder: Path) -> None:
        file = shard(folder)
        value = json.loads(file.read_text())
        change(value["weight_map"], folder)
        file.write_text(json.dumps(value))

    return spoil


def both(*spoils: Spoil) -> Spoil:
    return lambda folder: [spoil(folder) for spoil in spoils]


def quantised(part: str, tensor: Tensor, name: str = "model.layers.1.mlp.up_proj") -> Callable[[Tensors], Tensors]:
    """One linear's weight replaced by a part of a quantised one."""
    return lambda found: drop(f"{name}.weight")(found) | {f"{name}.{part}": tensor}


def stale_copy(folder: Path) -> None:
    """Two shards hold the same tensor, and the index names one of them."""
    shard(folder)
    one, other = load_file(folder / "part-0.safetensors"), load_file(folder / "part-1.safetensors")
    name = next(iter(one))
    save_file(other | {name: one[name] + 1}, folder / "part-1.safetensors")


WRONG: dict[str, tuple[Spoil, str]] = {
    # Missing or named otherwise
    "a norm is missing": (
        tensors(drop("layers.1.input_layernorm")),
        "model.layers.1.input_layernorm.weight is not stored; fetch",
    ),
    "a block is missing": (tensors(drop("layers.2.")), r"model.layers.2.self_attn.q_proj.weight, .* and 6 more are not stored"),
    "the embedding is missing": (tensors(drop("embed_tokens")), "embed_tokens.weight is not stored"),
    "the head is missing": (tensors(drop("lm_head")), 'lm_head.weight is not stored; set "tie_word_embeddings": true'),
    "torch.compile's prefix": (tensors(prefix("_orig_mod.")), "begins with '_orig_mod.', which torch.compile adds"),
    "DataParallel's prefix": (tensors(prefix("module.")), "begins with 'module.', which DataParallel adds"),
    "peft's prefix": (tensors(prefix("base_model.model.")), "begins with 'base_model.model.', which peft adds"),
    "an unknown prefix": (tensors(prefix("student.")), "are not stored; the model has no place for student.lm_head"),
    "other names": (tensors(rename("q_proj", "query")), "has no place for model.layers.0.self_attn.query.weight"),
    "a tensor too many": (tensors(add(model__layers__0__self_attn__q_proj__bias=torch.zeros(32))), "no place for .*q_proj.bias"),
    "a value head": (tensors(add(v_head__weight=torch.zeros(1, 32))), "classifier or reward model"),
    "one more block than the configuration says": (config(num_hidden_layers=2), "no place for model.layers.2.input_layernorm"),
    "one fewer": (config(num_hidden_layers=4), "model.layers.3.self_attn.q_proj.weight, .* are not stored"),
    "another model's configuration": (
        config(model_type="qwen2"),
        "names the class LlamaForCausalLM and model_type 'qwen2': mend one",
    ),
    # Shapes
    "another width": (config(intermediate_size=48), r"mlp.down_proj.weight is \[32, 64\], config.json says \[32, 48\]"),
    "another vocabulary": (config(vocab_size=100), r"lm_head.weight is \[96, 32\], config.json says \[100, 32\]"),
    "other heads": (config(num_key_value_heads=4), r"k_proj.weight is \[16, 32\], config.json says \[32, 32\]"),
    # Two ways to read it
    "tied by the configuration, two tensors": (
        config(tie_word_embeddings=True),
        "ties lm_head.weight to model.embed_tokens.weight",
    ),
    "a single file beside an index": (
        lambda folder: (
            shutil.copy(folder / "model.safetensors", folder / "kept"),
            shard(folder),
            (folder / "kept").rename(folder / "model.safetensors"),
        ),
        "holds model.safetensors and also model.safetensors.index.json, which names other files",
    ),
    "the index names a tensor that is not there": (
        index(lambda table, _: table.update(extra="part-0.safetensors")),
        "holds extra, which it does not",
    ),
    "the index leaves a tensor out": (
        index(lambda table, _: table.pop("model.norm.weight")),
        "holds model.norm.weight, which .* does not name",
    ),
    "the index names another shard": (
        index(lambda table, _: table.update({"lm_head.weight": "part-2.safetensors"})),
        "lm_head.weight",
    ),
    "a stale copy in another shard": (stale_copy, "which .* says lies in part-0.safetensors"),
    "a shard is missing": (
        index(lambda _, folder: (folder / "part-1.safetensors").unlink()),
        "names part-1.safetensors, which is not there",
    ),
    "the index leads elsewhere": (
        index(lambda table, _: table.update(x="../part-0.safetensors")),
        r"lies in '../part-0.safetensors': must be",
    ),
    "an index without a table": (lambda folder: edit_json(shard(folder), weight_map=GONE), "has no weight_map"),
    "with and without the prefix": (tensors(add(norm__weight=torch.ones(32))), "are both model.norm.weight of the model"),
    "an adapter beside the model": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "holds an adapter .* beside a model",
    ),
    # Quantised
    "int8 without a configuration": (
        tensors(quantised("weight", torch.ones(64, 32, dtype=torch.int8))),
        "quantised .* stored as I8",
    ),
    "fp8 without a configuration": (tensors(quantised("weight", torch.ones(64, 32).to(torch.float8_e5m2))), "stored as F8_E5M2"),
    "AWQ": (
        both(
            tensors(quantised("qweight", torch.ones(4, 64, dtype=torch.int32))),
            config(quantization_config={"quant_method": "awq"}),
        ),
        r"quantised \(awq\): .*up_proj.qweight is stored as I32; get the full-precision checkpoint",
    ),
    "HQQ": (tensors(quantised("W_q", torch.ones(4, 64, dtype=torch.uint8))), "HQQ"),
    "scales of another format": (tensors(quantised("weight_packed", torch.ones(4, 64, dtype=torch.int32))), "compressed-tensors"),
    "a scale beside a plain weight": (tensors(add(model__layers__0__mlp__up_proj__weight_scale=torch.ones(1))), "fp8"),
    "AWQ's own file beside plain weights": (
        lambda folder: (folder / "quant_config.json").write_text('{"w_bit": 4}'),
        "delete that file",
    ),
    "a leftover entry beside plain weights": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        r"says that the weights are quantised \(bitsandbytes\), but they are plain \(F32\): delete that entry",
    ),
    # What transformers does not accept
    "an attention of odd size": (config(num_attention_heads=5, head_dim=GONE), "config.json"),
    "a size that is a word": (config(hidden_size="wide"), "transformers does not accept config.json"),
    "unknown rotary scaling": (config(rope_parameters=GONE, rope_scaling={"rope_type": "spiral", "factor": 2.0}), "config.json"),
    "padding beyond the vocabulary": (config(pad_token_id=96), "pad_token_id 96: must be below vocab_size 96"),
    "a reward model": (config(architectures=["LlamaForSequenceClassification"]), "holds a LlamaForSequenceClassification"),
    "an encoder": (config(model_type="bert", architectures=["BertModel"]), "."),
    "a text-to-text model": (config(model_type="t5", architectures=["T5ForConditionalGeneration"]), "."),
    "a family of the future": (config(model_type="llama9"), "llama9"),
    "no family": (config(model_type=GONE), "names no model_type"),
    "a broken generation config": (
        lambda folder: (folder / "generation_config.json").write_text("{,"),
        "generation_config.json is not valid JSON",
    ),
    # Files
    "a pointer": (
        lambda folder: (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        "git-lfs pointer",
    ),
    "a cut file": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000]),
        "damaged",
    ),
    "an empty file": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "is empty; fetch"),
    "pickled weights": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "only pytorch_model.bin; pickled",
    ),
    "another single file": (
        lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors"),
        "only weights.safetensors: rename",
    ),
    "a link to nothing": (
        lambda folder: ((folder / "model.safetensors").unlink(), (folder / "model.safetensors").symlink_to("../blobs/abc")),
        "link to ../blobs/abc, which does not exist",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused_by_name_before_any_work(case: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    spoil, message = WRONG[case]
    folder = copy_of(tiny_model("llama"), tmp_path / "model")
    spoil(folder)
    attempts: list[Callable[[], object]] = [lambda: secateur.load(folder, device="cpu")]
    if "generation" not in case:  # pruning does not read how a model generates
        attempts.append(lambda: secateur.prune(folder, Recipe("wanda", 0.5), tmp_path / "run", tokens=tokens, device="cpu"))
    for attempt in attempts:
        with pytest.raises(UserError, match=message) as raised:
            attempt()
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 700
    assert not (tmp_path / "run").exists() and not (tmp_path / ".run.partial").exists()


def untie(found: Tensors) -> Tensors:
    return found | {"lm_head.weight": found["model.embed_tokens.weight"].clone()}


def head_only(found: Tensors) -> Tensors:
    return drop("embed_tokens")(found) | {"lm_head.weight": found["model.embed_tokens.weight"]}


RIGHT: dict[str, tuple[str, Spoil]] = {
    "as saved": ("llama", lambda folder: None),
    "shards of any name": ("llama", lambda folder: shard(folder)),
    "an index without metadata": ("llama", lambda folder: edit_json(shard(folder), metadata=GONE)),
    "an index that names the single file": (
        "llama",
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors")})
        ),
    ),
    "without the base prefix": ("llama", tensors(rename("model.", ""))),
    "old rotary tables": ("llama", tensors(add(model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4)))),
    "GPT-2 of the Hub": (
        "gpt2",
        tensors(lambda found: rename("transformer.", "")(found) | {"h.0.attn.bias": torch.ones(1, 1, 8, 8)}),
    ),
    "OPT without its prefix": ("opt-pre-norm", tensors(rename("model.", ""))),
    "tied, stored twice and equal": ("llama-tied", tensors(untie)),
    "tied, only the head stored": ("llama-tied", tensors(head_only)),
    "keys left to their defaults": ("llama", config(rms_norm_eps=GONE, hidden_act=GONE, rope_parameters=GONE, head_dim=GONE)),
    "no context length": ("llama", config(max_position_embeddings=GONE)),
    "flash attention asked for": ("llama", config(_attn_implementation="flash_attention_2")),
    "code of its own, beside a known family": ("llama", config(auto_map={"AutoConfig": "configuration_mine.Mine"})),
    "a misspelt class": ("llama", config(architectures=["LLaMAForCausalLM"])),
    "no class": ("llama", config(architectures=GONE)),
    "a byte-order mark": (
        "llama",
        lambda folder: (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + (folder / "config.json").read_bytes()),
    ),
    "another program's weights beside it": ("llama", lambda folder: (folder / "consolidated.safetensors").write_bytes(b"junk")),
    "links into a cache": (
        "llama",
        lambda folder: (
            (folder / "model.safetensors").rename(folder.parent / "blob"),
            (folder / "model.safetensors").symlink_to("../blob"),
        ),
    ),
}


@pytest.mark.parametrize("case", RIGHT)
def test_read_rightly_by_both_ways_of_reading(case: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    """Whole and block by block are the same numbers, and those of the model that was saved."""
    family, change = RIGHT[case]
    folder = copy_of(tiny_model(family), tmp_path / "model [1] {a}")
    change(folder)
    wanted = whole_logits(secateur.assemble(tiny_model(family), device="cpu"), tokens)
    assert torch.equal(whole_logits(secateur.load(folder, device="cpu")[0], tokens), wanted)
    assert torch.equal(streamed_logits(folder, tokens), wanted)
    run = secateur.prune(folder, Recipe("wanda", 0.5), tmp_path / "run", tokens=tokens, device="cpu")
    assert not torch.equal(whole_logits(secateur.assemble(folder, run, device="cpu"), tokens), wanted)


def test_a_missing_expert_is_noticed(tmp_path: Path) -> None:
    """Experts are stacked into one tensor: three of four would stack as well."""
    from tests.architectures import save

    folder = save("mixtral", tmp_path / "model")
    edit_tensors(folder, drop("layers.1.block_sparse_moe.experts.2."))
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.experts\.\w+ (is \[3|cannot be put together)"):
        secateur.assemble(folder, device="cpu")


def test_tied_tensors_stay_one_object(tiny_model: TinyModel) -> None:
    model = secateur.assemble(tiny_model("llama-tied"), device="cpu")
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]


def test_a_whole_model_generates_as_the_folder_says(tiny_model: TinyModel, tmp_path: Path) -> None:
    folder = copy_of(tiny_model("llama"), tmp_path / "model")
    edit_json(folder / "generation_config.json", max_new_tokens=7, eos_token_id=95)
    model = secateur.load(folder, device="cpu")[0]
    assert model.generation_config is not None
    assert (model.generation_config.max_new_tokens, model.generation_config.eos_token_id) == (7, 95)
