"""What lies in a checkpoint folder, without reading a weight: which file holds which tensor, or why it cannot be pruned.

The index decides which file holds what. Whatever two programs could read in two ways (a single file beside an index of other
shards, an adapter beside a model, a tensor that no index names) is refused rather than guessed, and so is everything that is
not plain floating-point weights in safetensors. Needs neither torch nor transformers.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from secateur.artifacts import SUMS, open_tensors, read_json, reading
from secateur.errors import UserError
from secateur.quantized import quantization

CONFIG, GENERATION = "config.json", "generation_config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# What other programs keep in a model's folder: weights in other formats, code, and the leftovers of a training.
FOREIGN = (*PICKLES, ".safetensors", ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack", ".tflite", ".npz", ".mlmodel")
LEFT_BEHIND = (*FOREIGN, ".index.json", ".py", ".pyc", ".ipynb", ".lock", ".log", ".zip", ".tar", ".gz")
LEFTOVERS = (
    "trainer_state.json",
    "training_args.json",
    "optimizer.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
)
FILLED = (".json", ".model", ".tiktoken", ".safetensors", ".gguf", ".parquet")  # never empty
POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies, its shape, and its type in safetensors' words (F32, BF16, I8)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class Checkpoint:
    """A folder in the Hub's layout: `config`, and `tensors` by the name under which they are stored.

    Opening one raises a `UserError` for anything that is not a whole, plain, unambiguous checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        names = sorted(file.name for file in folder.iterdir())
        for name in (*companions(names), INDEX):  # what else lies there, say pickled weights that git did not fetch, is not read
            refuse_unfetched(folder / name)
        files = {file: _entries(file) for file in weight_files(folder)}
        self.tensors = {name: stored for entries in files.values() for name, stored in entries.items()}
        if (folder / INDEX).is_file():
            _check_index(folder, files)
        if found := quantization(folder, self.config, {name: stored.dtype for name, stored in self.tensors.items()}):
            raise UserError(f"{folder}: {found}")

    @cached_property
    def bytes(self) -> int:
        """Size of all weight files."""
        return sum(file.stat().st_size for file in {stored.file for stored in self.tensors.values()})


def companions(names: list[str]) -> list[str]:
    """Files of a model's folder, relative to it, that belong to the model beside its weights: configurations, tokenizer files of
    any name, chat templates, licences. No weights in any format, no code, no hidden files, no leftovers of a training."""

    def belongs(name: str) -> bool:
        path = PurePosixPath(name)
        kept = len(path.parts) == 1 or path.parts[0] == "additional_chat_templates"
        return kept and not name.startswith(".") and not name.endswith(LEFT_BEHIND) and name not in (*LEFTOVERS, SUMS)

    return [name for name in names if belongs(name)]


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed `config.json` of a checkpoint folder; a `UserError` if the folder is none."""
    if not folder.is_dir():
        what = "is a file, not a checkpoint folder" if folder.is_file() else "does not exist"
        raise UserError(f"{folder} {what}; name a folder with {CONFIG} and {SINGLE}, as save_pretrained or a download makes it")
    with reading(folder):
        names = sorted(file.name for file in folder.iterdir())
    refuse_other_folders(str(folder), names if CONFIG in names else [*names, *_configs_below(folder)])
    refuse_unfetched(folder / CONFIG)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or "model_type" not in config:
        raise UserError(f"{folder / CONFIG} names no model_type: it is not the configuration of a transformers model")
    if not isinstance(config["model_type"], str):
        raise UserError(f"{folder / CONFIG}: model_type {config['model_type']!r}: must be the name of a family of models")
    return config


def refuse_other_folders(where: str, names: list[str]) -> None:
    """A `UserError` for a folder that holds something other than a model in safetensors: an adapter, a Hub cache, the format of
    another program, or the model in a sub-folder. `where` is what to call it, `names` are its entries, perhaps with those of its
    sub-folders (with `/`): then the message says which one holds the model."""
    if "adapter_config.json" in names or any(name.startswith("adapter_model.") for name in names):
        beside, remedy = "", "merge it with peft (merge_and_unload), save the result, use that"
        if CONFIG in names:
            beside, remedy = " beside a model", "move one of them to another folder"
        raise UserError(f"{where} holds an adapter (adapter_config.json){beside}, which is no model of its own: {remedy}")
    if CONFIG in names:
        return
    below = sorted(name.removesuffix(f"/{CONFIG}") for name in names if name.endswith(f"/{CONFIG}"))
    tops = {name.partition("/")[0] for name in names}
    if {"snapshots", "blobs"} & tops or any(name.startswith(("models--", "datasets--")) for name in tops):
        place = f"{below[0]} in it" if len(below) == 1 else f"the folder in it that holds {CONFIG} (.../snapshots/<commit>)"
        raise UserError(f"{where} is the Hub's cache and not a checkpoint: name {place}")
    if gguf := next((name for name in sorted(names) if name.endswith(".gguf")), None):
        raise UserError(f"{where} holds {gguf} and no {CONFIG}: a GGUF file is read by the download stage (reader: gguf)")
    if below:
        raise UserError(f"{where} has no {CONFIG}, but its sub-folder {' or '.join(below[:3])} has: name that folder")
    if "params.json" in names or any(name.startswith("consolidated.") for name in names):
        raise UserError(
            f"{where} is an original release (params.json, consolidated.*) without {CONFIG}: convert it with transformers' "
            "script for its family first"
        )
    raise UserError(f"{where} has no {CONFIG}: it is not a checkpoint in the layout of the Hub")


def refuse_unfetched(file: Path) -> None:
    """A `UserError` for a link to nothing, an empty file, or the pointer that git leaves where it did not fetch a large file."""
    if file.is_symlink() and not file.exists():
        raise UserError(f"{file} is a link to {file.readlink()}, which does not exist; fetch it again, or copy its target too")
    if file.is_file() and file.suffix in FILLED and not file.stat().st_size:
        raise UserError(f"{file} is empty; fetch it again")
    if file.is_file() and file.stat().st_size < 1024:
        with reading(file), file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise UserError(f"{file} is a git-lfs pointer, not the file itself; run `git lfs pull` in its repository")


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint: those that its index names, or the single one."""
    names = {file.name for file in folder.iterdir()}
    table = weight_map(folder / INDEX) if INDEX in names else None
    return [folder / name for name in weight_names(str(folder), names, table)]


def weight_names(where: str, names: Collection[str], table: Mapping[str, str] | None) -> list[str]:
    """Names of the weight files among `names`, the files of what is called `where`; `table` is the weight map of its index."""
    if table is None:
        if SINGLE not in names:
            refuse_other_weights(where, sorted(names))
        return [SINGLE]
    shards = sorted(set(table.values()))
    if SINGLE in names and shards != [SINGLE]:
        raise UserError(
            f"{where} holds {SINGLE} and also {INDEX}, which names other files ({shards[0]} ...): programs differ in which they "
            "read; remove the one that is out of date"
        )
    if missing := [shard for shard in shards if shard not in names]:
        raise UserError(f"{where}: {INDEX} names {missing[0]}, which is not there; fetch the model again")
    return shards


def refuse_other_weights(where: str, names: list[str]) -> NoReturn:
    """The `UserError` for a model without `model.safetensors` and without an index: says what is there instead."""
    names = [name for name in names if "/" not in name]
    others = [name for name in names if name.endswith(".safetensors")]
    pickles = [
        name for name in names if name.endswith(PICKLES) and not name.startswith(("training_args", "optimizer", "scheduler"))
    ]
    if others:
        raise UserError(
            f"{where} has no {SINGLE} and no {INDEX}, only {others[0]}: "
            + (f"rename it to {SINGLE}" if len(others) == 1 else "add the index that says which file holds which tensor")
        )
    if pickles:
        raise UserError(
            f"{where} has no {SINGLE}, only {pickles[0]}; pickled weights are not read, since unpickling runs code. Convert them "
            "once with transformers (AutoModelForCausalLM.from_pretrained(NAME).save_pretrained(DIR), the same with "
            "AutoTokenizer) and use DIR"
        )
    if gguf := next((name for name in names if name.endswith(".gguf")), None):
        raise UserError(f"{where} has no {SINGLE}, only {gguf}: a GGUF file is read by the download stage (reader: gguf)")
    raise UserError(f"{where} has a {CONFIG} and no weights: it needs {SINGLE}, or shards with {INDEX}")


def weight_map(index: Path) -> dict[str, str]:
    """Tensor names to file names, as an index says; anything but plain file names beside it is a `UserError`."""
    value = read_json(index)
    table = value.get("weight_map") if isinstance(value, dict) else None
    if not isinstance(table, dict) or not table:
        raise UserError(f"{index} has no weight_map that says which file holds which tensor; fetch or make it again")
    for name, file in table.items():
        plain = isinstance(file, str) and Path(file).name == file and file.isprintable()
        if not plain or not file.endswith(".safetensors"):
            raise UserError(f"{index}: {name} lies in {file!r}: must be the name of a .safetensors file beside the index")
    return table


def _configs_below(folder: Path) -> list[str]:
    """Configurations in sub-folders, as deep as the Hub's cache has them."""
    return [file.relative_to(folder).as_posix() for depth in range(1, 4) for file in folder.glob("*/" * depth + CONFIG)]


def _entries(file: Path) -> dict[str, Stored]:
    refuse_unfetched(file)
    with open_tensors(file, framework="np") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {name: Stored(file, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def _check_index(folder: Path, files: Mapping[Path, Mapping[str, Stored]]) -> None:
    """Index and shards must say the same: some programs follow the one, some the other."""
    for problem in _disagreements(weight_map(folder / INDEX), files):
        raise UserError(f"{folder}: {problem}; fetch the model again, or save it anew")


def _disagreements(table: Mapping[str, str], files: Mapping[Path, Mapping[str, Stored]]) -> Iterator[str]:
    held = {(file.name, name) for file, entries in files.items() for name in entries}
    for name, file in sorted(table.items()):
        if (file, name) not in held:
            yield f"{INDEX} says that {file} holds {name}, which it does not"
    for file, name in sorted(held):
        if table.get(name) != file:
            elsewhere = f"says lies in {table[name]}" if name in table else "does not name"
            yield f"{file} holds {name}, which {INDEX} {elsewhere}"
