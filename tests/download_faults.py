"""Ways in which a model's folder can be other than it seems, and what the download stage says of each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1234567\n"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
Change = Callable[[Path], Any]


def single(folder: Path) -> None:
    """One file instead of the shards."""
    tensors = {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    for shard in [*folder.glob("*.safetensors"), folder / INDEX]:
        shard.unlink()
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def edit(folder: Path, name: str, **changes: Any) -> None:
    value = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({key: entry for key, entry in (value | changes).items() if entry is not None}))


def stored(folder: Path, change: Callable[[torch.Tensor], torch.Tensor], suffix: str = "") -> None:
    """Change a weight of the first block, and perhaps call it otherwise."""
    single(folder)
    tensors, name = load_file(folder / SINGLE), "model.layers.0.mlp.up_proj.weight"
    tensors[name.removesuffix(".weight") + suffix if suffix else name] = change(tensors.pop(name))
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def write(name: str, text: str = "{}") -> Change:
    return lambda folder: (folder / name).write_text(text)


def truncate(name: str, keep: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def only(*names: str) -> Change:
    """A folder with these files and nothing else."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"\x80\x04.")

    return change


def link(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("gone/away")

    return change


def moved(place: str) -> Change:
    """The same checkpoint further down in the folder that is named."""

    def change(folder: Path) -> None:
        folder.rename(folder.with_name("kept"))
        (folder / place).parent.mkdir(parents=True)
        folder.with_name("kept").rename(folder / place)

    return change


def weight_map(**changes: Any) -> Change:
    def change(folder: Path) -> None:
        table = json.loads((folder / INDEX).read_text())["weight_map"]
        edit(folder, INDEX, weight_map=table | changes)

    return change


def config_and(*names: str) -> Change:
    def change(folder: Path) -> None:
        config = (folder / "config.json").read_bytes()
        only("config.json", *names)(folder)
        (folder / "config.json").write_bytes(config)

    return change


def renamed(folder: Path) -> None:
    single(folder)
    (folder / SINGLE).rename(folder / "weights.safetensors")


def quantised(**entry: Any) -> Change:
    return lambda folder: edit(folder, "config.json", quantization_config=entry)


# A name, the change, and a pattern of the message, in which SOURCE stands for the source as the row has it.
REFUSED: dict[str, tuple[Change, str]] = {
    "missing shard": (lambda f: (f / "weights-a.safetensors").unlink(), r"names weights-a.safetensors, which is not there"),
    "no weight_map": (write(INDEX), r"SOURCE/model.safetensors.index.json has no weight_map"),
    "weight_map a list": (write(INDEX, '{"weight_map": ["a"]}'), r"has no weight_map"),
    "shard outside": (weight_map(a="../x.safetensors"), r"a lies in '../x.safetensors': must be the name of a .safetensors"),
    "shard absolute": (weight_map(a="/etc/x.safetensors"), r"a lies in '/etc/x.safetensors'"),
    "shard with a line break": (weight_map(a="x\n.safetensors"), r"a lies in 'x\\n.safetensors'"),
    "shard pickled": (weight_map(a="pytorch_model.bin"), r"a lies in 'pytorch_model.bin'"),
    "tensor not in its shard": (
        weight_map(ghost="weights-a.safetensors"),
        r"weights-a.safetensors holds ghost, which it does not",
    ),
    "single beside shards": (write(SINGLE), r"SOURCE holds model.safetensors and also .*index.json, which names other files"),
    "pointer for a shard": (
        write("weights-a.safetensors", POINTER),
        r"SOURCE/weights-a.safetensors is a git-lfs pointer.*lfs pull",
    ),
    "pointer for tokenizer.json": (write("tokenizer.json", POINTER), r"SOURCE/tokenizer.json is a git-lfs pointer"),
    "pointer for spm.model": (write("spm.model", POINTER), r"SOURCE/spm.model is a git-lfs pointer"),
    "pointer for config.json": (write("config.json", POINTER), r"SOURCE/config.json is a git-lfs pointer"),
    "pointer for the index": (write(INDEX, POINTER), r"SOURCE/model.safetensors.index.json is a git-lfs pointer"),
    "adapter": (only("adapter_config.json", "adapter_model.safetensors"), r"SOURCE holds an adapter .*merge_and_unload"),
    "adapter beside": (write("adapter_config.json"), r"an adapter \(adapter_config.json\) beside a model.*move one"),
    "cache": (moved("snapshots/0a1b2c"), r"SOURCE is the Hub's cache.*name snapshots/0a1b2c in it"),
    "cache root": (moved("models--org--name/snapshots/0a1b"), r"the Hub's cache.*name models--org--name/snapshots/0a1b in it"),
    "cache without": (only("blobs/0", "refs/main"), r"SOURCE is the Hub's cache.*\.\.\./snapshots/<commit>"),
    "one level up": (moved("checkpoint-500"), r"SOURCE has no config.json, but its sub-folder checkpoint-500 has: name that"),
    "link for a shard": (
        link("weights-a.safetensors"),
        r"SOURCE/weights-a.safetensors is a link to gone/away, which does not exist",
    ),
    "link for config.json": (link("config.json"), r"SOURCE/config.json is a link to gone/away"),
    "link for a tokenizer": (link("vocab.bpe.model"), r"SOURCE/vocab.bpe.model is a link to gone/away"),
    "pickled": (config_and("pytorch_model-1.bin", "training_args.bin"), r"only pytorch_model-1.bin; pickled .*save_pretrained"),
    "gguf": (only("tiny-Q4.gguf", "README.md"), r"SOURCE holds tiny-Q4.gguf and no config.json.*reader: gguf"),
    "gguf and config": (config_and("tiny-Q4.gguf"), r"SOURCE has no model.safetensors, only tiny-Q4.gguf.*reader: gguf"),
    "original release": (only("params.json", "consolidated.00.pth", "tokenizer.model"), r"original release .*convert it"),
    "another single name": (renamed, r"only weights.safetensors: rename it to model.safetensors"),
    "no weights": (config_and("tokenizer.json"), r"SOURCE has a config.json and no weights"),
    "empty shard": (truncate("weights-a.safetensors", 0), r"SOURCE/weights-a.safetensors is empty"),
    "cut shard": (truncate("weights-a.safetensors", 5000), r"SOURCE/weights-a.safetensors is damaged or not safetensors"),
    "cut header": (truncate("weights-a.safetensors", 5), r"SOURCE/weights-a.safetensors is damaged"),
    "empty tokenizer": (truncate("spm.model", 0), r"SOURCE/spm.model is empty; fetch it again"),
    "cut tokenizer": (truncate("tokenizer.json", 1), r"SOURCE/tokenizer.json is not valid JSON"),
    "empty config": (truncate("config.json", 0), r"SOURCE/config.json is empty"),
    "cut config": (truncate("config.json", 40), r"SOURCE/config.json is not valid JSON"),
    "config in UTF-16": (lambda f: (f / "config.json").write_text("{}", "utf-16"), r"SOURCE/config.json is not UTF-8 text"),
    "no model_type": (lambda f: edit(f, "config.json", model_type=None), r"SOURCE/config.json names no model_type"),
    "config a list": (write("config.json", "[1]"), r"SOURCE/config.json names no model_type"),
    "nothing": (only("README.md"), r"SOURCE has no config.json: it is not a checkpoint"),
    "empty folder": (lambda f: [shutil.rmtree(f), f.mkdir()], r"SOURCE has no config.json"),
    "gptq": (lambda f: stored(f, lambda w: w.to(torch.int32), ".qweight"), r"SOURCE: the weights are quantised \(GPTQ or AWQ\)"),
    "bitsandbytes": (
        lambda f: [quantised(quant_method="bitsandbytes")(f), stored(f, lambda w: w.to(torch.uint8))],
        r"bitsandbytes",
    ),
    "compressed": (lambda f: stored(f, lambda w: w.to(torch.int32), ".weight_packed"), r"compressed-tensors"),
    "fp8": (lambda f: stored(f, lambda w: w.to(torch.float8_e4m3fn)), r"quantised \(F8_E4M3 weights\)"),
    "mxfp4": (lambda f: stored(f, lambda w: w.to(torch.uint8), "_blocks"), r"quantised \(MXFP4\)"),
    "modelopt": (write("hf_quant_config.json", '{"quantization": {"quant_algo": "NVFP4"}}'), r"quantised \(ModelOpt NVFP4\)"),
    "gptq declared": (
        quantised(quant_method="gptq", bits=4),
        r"SOURCE: config.json says that the weights are quantised \(gptq\)",
    ),
    "declared only": (quantised(quant_method="awq"), r"SOURCE: config.json says that the weights are quantised \(awq\), but"),
}
