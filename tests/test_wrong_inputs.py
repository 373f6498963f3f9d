"""Checkpoints that are broken, ambiguous or somebody else's: each is refused in one line, or taken, and no file is touched."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.wrong import (
    DROP,
    ENTRIES,
    INDEX,
    LFS,
    SINGLE,
    Answer,
    Change,
    a_folder,
    a_pipe,
    answers,
    both,
    config,
    cut,
    entries,
    good,
    header,
    linked,
    refusal,
    renamed,
    sharded,
    tensors,
    text,
    tree,
    without,
)

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True)
class Spoilt(Answer):
    """A good checkpoint that is changed. `by`: which of the entries refuse it; the others take it."""

    change: Change = lambda folder: None
    by: str = "prune load export"


def row(name: str, change: Change, *says: str, by: str = "prune load export", fault: str = "") -> Spoilt:
    return Spoilt(name, says, fault, change, by)


Q = "model.layers.0.self_attn.q_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"

READING = "read_json hands on what the system says, follows any depth, and waits for whoever writes into a pipe"
LINES = "a name with a line break makes a message of two lines"

CONFIGS = [
    row("config missing", without("config.json"), "has no config.json"),
    row("config empty", text("config.json", ""), "config.json is empty"),
    row("config cut", cut("config.json"), "config.json is not valid JSON"),
    row("config a list", text("config.json", "[]"), "config.json", "names no model_type"),
    row("config null", text("config.json", "null"), "config.json", "names no model_type"),
    row("config Latin-1", text("config.json", b'{"model_type": "\xe9"}'), "config.json is not UTF-8 text"),
    row("config a folder", a_folder("config.json"), "config.json"),
    row("config a link to nothing", linked("config.json", "../gone.json"), "config.json is a link to ../gone.json"),
    row("config a link to itself", linked("config.json", "config.json"), "config.json is a link to config.json"),
    row("config a pipe", a_pipe("config.json"), "config.json"),
    row("config nested too deep", text("config.json", '{"a":' * 100_000), "config.json"),
    row("config with NaN", text("config.json", '{"model_type": "llama", "hidden_size": NaN}'), "config.json", "nan"),
    row("config LFS pointer", text("config.json", LFS), "config.json is a git-lfs pointer"),
    row("model_type missing", config(model_type=DROP), "config.json", "names no model_type"),
    row("model_type a number", config(model_type=7), "config.json", "model_type 7"),
    row("model_type empty", config(model_type=""), "model"),
    row("model_type unknown", config(model_type="lama"), "lama"),
    row("model_type of many lines", config(model_type="a\nb"), "model", "a"),
    row("model_type not pruned", config(model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"]), "gpt_neox"),
    row("hidden_size 0", config(hidden_size=0), "[96, 32]", "[96, 0]"),
    row("hidden_size negative", config(hidden_size=-32), "config.json", "-32"),
    row("hidden_size text", config(hidden_size="32"), "hidden_size", "32"),
    row("hidden_size null", config(hidden_size=None), "hidden_size"),
    row("hidden_size huge", config(hidden_size=10**30), "config.json"),
    row("hidden_size another", config(hidden_size=64), "[96, 32]", "[96, 64]", "config.json"),
    row("heads 0", config(num_attention_heads=0), "config.json", "zero"),
    row("heads not a divisor", config(num_attention_heads=5, head_dim=DROP), "config.json", "32", "(5)"),
    row("heads a list", config(num_attention_heads=[4]), "num_attention_heads", "[4]"),
    row("blocks fewer than stored", config(num_hidden_layers=2), "no place for", "model.layers.2."),
    row("blocks more than stored", config(num_hidden_layers=4), "model.layers.3.", "not stored"),
    row("blocks 0", config(num_hidden_layers=0), "no place for", "model.layers.0."),
    row("blocks negative", config(num_hidden_layers=-1), "no place for", "model.layers.0."),
    row("blocks a fraction", config(num_hidden_layers=2.5), "num_hidden_layers", "2.5"),
    row("vocab_size smaller", config(vocab_size=95), "[96, 32]", "[95, 32]"),
    row("vocab_size larger", config(vocab_size=128), "[96, 32]", "[128, 32]"),
    row("vocab_size negative", config(vocab_size=-1), "config.json", "-1"),
    row("padding beyond the vocabulary", config(pad_token_id=96), "pad_token_id 96", "vocab_size 96"),
    row("padding negative", config(pad_token_id=-1)),
    row("rope nonsense", config(rope_scaling={"rope_type": "nonsense", "factor": 2.0}), "nonsense"),
    row("rope parameters text", config(rope_parameters="yes"), "rope"),
    row("rope factor negative", config(rope_parameters={"rope_type": "linear", "factor": -2.0, "rope_theta": 1e4})),
    row("activation unknown", config(hidden_act="frob"), "frob"),
    row("activation a number", config(hidden_act=3), "hidden_act", "3"),
    row("dtype unknown", config(dtype="float3"), "float3"),
    row("tied, and two tensors", config(tie_word_embeddings=True), "ties lm_head.weight", "two different tensors"),
    row("architectures a number", config(architectures=5), "architectures", "5"),
    row("architectures text", config(architectures="LlamaForCausalLM")),
    row("architecture a classifier", config(architectures=["LlamaForSequenceClassification"]), "LlamaForSequenceClassification"),
    row("architecture unknown", config(architectures=["MyOwnModel"])),
    row("flash attention", config(_attn_implementation="flash_attention_2", attn_implementation="flash_attention_2")),
    row("code of its own, family known", config(auto_map={"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"})),
    row("code of its own, family unknown", config(model_type="mine", auto_map={"AutoConfig": "mine.Mine"}), "mine"),
    row("quantised, it says", config(quantization_config={"quant_method": "hqq"}), "quantised (hqq)", "config.json"),
    row("quantization_config a list", config(quantization_config=["x"]), "config.json says", "quantised"),
    row("quantised, a file says", text("quantize_config.json", '{"bits": 4}'), "quantize_config.json", "GPTQ"),
    row("byte-order mark", lambda folder: text("config.json", b"\xef\xbb\xbf" + (folder / "config.json").read_bytes())(folder)),
    row("unknown entries", config(wings=2, secateur={"a": [1]})),
    row("generation config cut", text("generation_config.json", '{"a": '), "generation_config.json", by="load export"),
    row("generation config a list", text("generation_config.json", "[]"), "generation_config.json", by="load export"),
    row("generation config empty", text("generation_config.json", ""), "generation_config.json is empty"),
    row(
        "generation config nonsense",
        text("generation_config.json", '{"max_new_tokens": "many", "num_beams": -1}'),
        "generation_config.json",
        by="load export",
    ),
]

WEIGHTS = [
    row("no weights", without(SINGLE), "has a config.json and no weights"),
    row("weights empty", text(SINGLE, ""), "model.safetensors is empty"),
    row("weights cut", cut(SINGLE), "model.safetensors is damaged"),
    row("weights a folder", a_folder(SINGLE), "model.safetensors"),
    row("weights a pipe", a_pipe(SINGLE), "model.safetensors"),
    row("weights a link to nothing", linked(SINGLE, "../gone"), "model.safetensors is a link to ../gone"),
    row("weights LFS pointer", text(SINGLE, LFS), "model.safetensors is a git-lfs pointer"),
    row("weights text", text(SINGLE, "<html>Not found</html>" * 99), "model.safetensors is damaged"),
    row("header beyond the file", header(lambda value: value, length=10**9), "model.safetensors is damaged"),
    row("header longer by one", header(lambda value: value, length=1), "model.safetensors is damaged"),
    row("header a list", text(SINGLE, b"\x02" + b"\0" * 7 + b"[]"), "model.safetensors is damaged"),
    row("header of nothing", text(SINGLE, b"\x02" + b"\0" * 7 + b"{}"), "hold no tensors"),
    row(
        "offsets overlap",
        header(lambda value: value[Q].update(data_offsets=value[HEAD]["data_offsets"])),
        "model.safetensors is damaged",
    ),
    row("offsets beyond the file", header(lambda value: value[Q].update(data_offsets=[0, 10**12])), "is damaged"),
    row("offsets negative", header(lambda value: value[Q].update(data_offsets=[-4, 4092])), "is damaged"),
    row("a shape that does not fit its bytes", header(lambda value: value[Q].update(shape=[32, 33])), "is damaged"),
    row("a shape turned", header(lambda value: value[EMBEDDING].update(shape=[32, 96])), "[32, 96]", "[96, 32]"),
    row("a type unknown", header(lambda value: value[Q].update(dtype="F31")), "is damaged"),
    row("a type of integers", tensors(lambda held: held.update({Q: held[Q].to(torch.int32)})), Q, "I32"),
    row("a type of 8 bits", tensors(lambda held: held.update({Q: held[Q].to(torch.float8_e5m2)})), Q, "F8_E5M2"),
    row("complex numbers", tensors(lambda held: held.update({Q: held[Q].to(torch.complex64)})), Q, "C64"),
    row("booleans", tensors(lambda held: held.update({Q: held[Q] > 0})), Q, "BOOL"),
    row("half precision for one", tensors(lambda held: held.update({Q: held[Q].half()}))),
    row("nan in a block", tensors(lambda held: held[Q].fill_(torch.nan)), Q, "nan", by="prune export"),
    row("inf in the head", tensors(lambda held: held[HEAD][0].fill_(torch.inf)), HEAD, "inf", by="prune export"),
    row("a tensor missing", tensors(lambda held: held.pop(Q)), Q, "is not stored"),
    row("the head missing", tensors(lambda held: held.pop(HEAD)), HEAD, "is not stored"),
    row("a tensor too many", tensors(lambda held: held.update({"model.extra.weight": torch.ones(2)})), "model.extra.weight"),
    row("a name of many lines", tensors(lambda held: held.update({"a\nb": torch.ones(2)})), "a\\nb"),
    row("a scalar for a matrix", tensors(lambda held: held.update({Q: torch.tensor(1.0)})), Q, "[]", "[32, 32]"),
    row("a matrix without rows", tensors(lambda held: held.update({Q: torch.ones(0, 32)})), Q, "[0, 32]", "[32, 32]"),
    row(
        "names of torch.compile",
        tensors(lambda held: [held.update({f"_orig_mod.{name}": held.pop(name)}) for name in list(held)]),
        "'_orig_mod.'",
        "torch.compile",
    ),
    row(
        "names of FSDP",
        tensors(lambda held: [held.update({f"_fsdp_wrapped_module.{name}": held.pop(name)}) for name in list(held)]),
        "'_fsdp_wrapped_module.'",
    ),
    row("an old table", tensors(lambda held: held.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))),
    row("another name", renamed(SINGLE, "weights.safetensors"), "only weights.safetensors", "rename it"),
    row("pickled only", renamed(SINGLE, "pytorch_model.bin"), "only pytorch_model.bin", "unpickling runs code"),
    row("pickled beside", text("pytorch_model.bin", b"\x80\x04.")),
    row("GGUF only", renamed(SINGLE, "model.gguf"), "only model.gguf"),
    row("original release", both(without("config.json"), text("params.json", "{}")), "original release"),
    row("adapter beside", text("adapter_config.json", "{}"), "adapter (adapter_config.json) beside a model"),
    row("in a sub-folder", lambda folder: _move(folder, "checkpoint-9"), "sub-folder checkpoint-9"),
    row("the Hub's cache", lambda folder: _move(folder, "snapshots/abc"), "Hub's cache", "snapshots/abc"),
]

INDICES = [
    row("shards", sharded()),
    row("shards in no order", both(sharded(), text("extra.safetensors", b""))),
    row("a shard missing", both(sharded(), without("a.safetensors")), "a.safetensors", "not there"),
    row("a shard cut", both(sharded(), cut("b.safetensors")), "b.safetensors is damaged"),
    row("a shard LFS pointer", both(sharded(), text("b.safetensors", LFS)), "b.safetensors is a git-lfs pointer"),
    row("a shard a folder", both(sharded(), a_folder("b.safetensors")), "b.safetensors"),
    row("index and single file", both(sharded(), text(SINGLE, b"x")), SINGLE, INDEX, "out of date"),
    row("index names the other shard", sharded(**{HEAD: "b.safetensors"}), HEAD, "b.safetensors"),
    row("index names a tensor of nobody", sharded(ghost="a.safetensors"), "a.safetensors holds ghost, which it does not"),
    row("index leaves out a tensor", both(sharded(), entries(INDEX, weight_map={EMBEDDING: "a.safetensors"})), INDEX),
    row("index empty", both(sharded(), text(INDEX, "")), f"{INDEX} is empty"),
    row("index cut", both(sharded(), cut(INDEX)), f"{INDEX} is not valid JSON"),
    row("index a list", both(sharded(), text(INDEX, "[1]")), INDEX, "no weight_map"),
    row("index without a map", both(sharded(), entries(INDEX, weight_map=DROP)), INDEX, "no weight_map"),
    row("index map empty", both(sharded(), entries(INDEX, weight_map={})), INDEX, "no weight_map"),
    row("index leads out", sharded(**{Q: "../a.safetensors"}), Q, "'../a.safetensors'"),
    row("index leads to the root", sharded(**{Q: "/etc/passwd"}), Q, "'/etc/passwd'"),
    row("index names a pickle", sharded(**{Q: "a.bin"}), Q, "'a.bin'"),
    row("index names a number", both(sharded(), entries(INDEX, weight_map={Q: 3})), Q, "3"),
    row("index of many lines", sharded(**{"a\nb": "x\ny.safetensors"}), "a\\nb"),
    row("index a folder", a_folder(INDEX), INDEX),
    row("index a pipe", a_pipe(INDEX), INDEX),
]

TOKENIZERS = [
    row("no tokenizer", without("tokenizer.json"), "has no tokenizer", by="load"),
    row("tokenizer cut", cut("tokenizer.json"), "tokenizer", "cannot be read", by="load export"),
    row("tokenizer a list", text("tokenizer.json", "[]"), "tokenizer", "cannot be read", by="load export"),
    row("tokenizer empty", text("tokenizer.json", ""), "tokenizer.json is empty"),
    row("tokenizer LFS pointer", text("tokenizer.json", LFS), "tokenizer.json is a git-lfs pointer"),
    row("tokenizer a pipe", a_pipe("tokenizer.json"), "tokenizer.json", by="load"),
    row("tokenizer a folder", a_folder("tokenizer.json"), "tokenizer", by="load"),
    row("tokenizer settings a list", text("tokenizer_config.json", "[]"), "tokenizer", by="load export"),
    row("tokenizer settings cut", cut("tokenizer_config.json"), "tokenizer_config.json", by="load export"),
    row("tokenizer class a number", entries("tokenizer_config.json", tokenizer_class=5), "tokenizer", by="load export"),
    row("tokenizer class unknown", entries("tokenizer_config.json", tokenizer_class="LLaMATokenizer")),
    row(
        "tokenizer code of its own",
        entries("tokenizer_config.json", tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.Mine", None]}),
        "mine.Mine",
        "never run",
        by="load",
    ),
    row(
        "tokenizer code of its own in the old form",
        entries("tokenizer_config.json", tokenizer_class="Mine", auto_map=["mine.Mine", None]),
        "mine.Mine",
        "never run",
        by="load",
    ),
    row(
        "tokenizer code a number", entries("tokenizer_config.json", auto_map={"AutoTokenizer": 5}), "tokenizer", by="load export"
    ),
    row("special tokens a list", text("special_tokens_map.json", "[1]"), "tokenizer", by="load export"),
    row("special tokens cut", text("special_tokens_map.json", '{"a'), "tokenizer", by="load export"),
    row("added tokens cut", text("added_tokens.json", '{"a'), "tokenizer", by="load export"),
]


def _move(folder: Path, below: str) -> None:
    files = list(folder.iterdir())
    (folder / below).mkdir(parents=True)
    for file in files:
        file.rename(folder / below / file.name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test works, with temporary files inside."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


@answers([*CONFIGS, *WEIGHTS, *INDICES, *TOKENIZERS])
def test_a_checkpoint(row: Spoilt, tiny_model: Callable[[str], Path], place: Path) -> None:
    model = good(tiny_model("llama"), place / "model")
    row.change(model)
    before = tree(model)
    for name, entry in ENTRIES.items():
        out = place / name
        if row.says and name in row.by.split():
            message = refusal(lambda entry=entry, out=out: entry(model, out), place)
            assert all(part in message for part in row.says), (name, message)
        else:
            entry(model, out)
    assert tree(model) == before
