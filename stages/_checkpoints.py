"""Models: whatever the source has becomes a folder in the layout of the Hub, safetensors only.

What is fetched follows from the index and the contents of files, not from what shards are usually called, and nothing is copied
that would be refused afterwards. Code that lies beside a model is neither copied nor run.
"""

import codecs
import json
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.artifacts import read_json, write_text
from secateur.checkpoint import (
    CONFIG,
    GENERATION,
    INDEX,
    Checkpoint,
    companions,
    read_config,
    refuse_other_folders,
    weight_map,
    weight_names,
)
from secateur.errors import UserError
from secateur.quantized import quantization
from stages._one_line import reason
from stages._plain import place
from stages._sources import Source, named

if TYPE_CHECKING:
    from pipelines.schema import DownloadRow

# Small files that transformers reads as JSON: a truncated one would be found out only by a later stage.
READ_LATER = (GENERATION, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")


def make_model(row: "DownloadRow", source: Source, out: Path, scratch: Path) -> None:
    """Fill `out` with config, tokenizer and safetensors weights of `row`'s model.

    A source that is no whole, plain checkpoint is a `UserError`; what had been fetched of it into `scratch` is thrown away.
    """
    try:
        if row.reader == "gguf":
            _convert_gguf(row, source, out)
        else:
            _copy_checkpoint(source, out)
    except UnusableModel:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


class UnusableModel(UserError):
    """The files are there, and no model."""


def _copy_checkpoint(source: Source, out: Path) -> None:
    names = _chosen(source)
    folder = source.fetch(names).absolute()
    # Headers and configurations are looked at through links, before gigabytes are copied.
    with tempfile.TemporaryDirectory() as view:
        for name in names:
            place(folder / name, Path(view, name))
        _check(source, Path(view))
    for name in names:
        (out / name).parent.mkdir(exist_ok=True)
        # A copy, not a link: DVC may move an output into its cache and write-protect it there.
        shutil.copyfile(folder / name, out / name)
        if name.endswith(".json"):
            _drop_mark(out / name)


def _chosen(source: Source) -> list[str]:
    """The files that make up the model; only configuration and index have been fetched when this is known or refused."""
    if source.file:
        what = "reader: gguf" if source.text.endswith(".gguf") else f"name the folder that holds it and {CONFIG}"
        raise UserError(f"{source.text} is a single file and not a checkpoint folder; {what}")
    refuse_other_folders(source.text, source.names)
    first = [name for name in (CONFIG, INDEX) if name in source.names]
    folder = source.fetch(first).absolute()
    with named(folder, source.text):
        config = read_config(folder)
        weights = weight_names(source.text, source.names, weight_map(folder / INDEX) if INDEX in first else None)
    fetched = (folder / weights[0]).exists()
    if not fetched and (found := quantization(folder, config, {})):
        raise UserError(f"{source.text}: {found}")
    # No program calls its files like this, and a line of SHA256SUMS could not hold such a name.
    others = [name for name in companions(source.names) if name.isprintable()]
    return sorted({*first, *weights, *others})


def _check(source: Source, folder: Path) -> None:
    """`Checkpoint` accepts the folder, and its tokenizer's files are whole; messages name the source."""
    try:
        with named(folder, source.text):
            Checkpoint(folder)
            for name in READ_LATER:
                if (folder / name).exists():
                    read_json(folder / name)
    except UserError as error:
        raise UnusableModel(str(error)) from error.__cause__


def _drop_mark(path: Path) -> None:
    """JSON without a byte-order mark: Windows programs write one, and transformers does not read it."""
    with path.open("rb") as file:
        marked = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    if marked:
        path.write_bytes(path.read_bytes().removeprefix(codecs.BOM_UTF8))


def _convert_gguf(row: "DownloadRow", source: Source, out: Path) -> None:
    """Dequantise a GGUF file to float32; transformers knows the format, its tensor names and its tokenizer."""
    from huggingface_hub.errors import StrictDataclassError

    # What transformers raises for an unknown architecture, damaged parts, and sizes that do not fit together.
    known = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError, OSError, struct.error)
    names = row.files or [name for name in source.names if name.endswith(".gguf")]
    if len(names) != 1 or names[0] not in source.names:
        raise UserError(f"reader gguf needs exactly one file of {source.text}, files is {names}")
    # Alone in a folder: transformers would also read configurations and adapters that lie beside it.
    with tempfile.TemporaryDirectory() as folder:
        file = place(source.fetch(names) / names[0], Path(folder, "model.gguf"))
        try:
            _save_gguf(file, out)
        except (*known, StrictDataclassError) as error:
            text = " ".join(str(reason(error)).replace(str(file), names[0]).replace(file.name, names[0]).split())
            raise UnusableModel(f"{source.text}: {names[0]} cannot be read as a GGUF model: {text}") from error
    for path in sorted(out.glob("*.json")):
        _forget_location(path)


def _save_gguf(file: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # The weights are plain numbers now; what the loader left behind would make save_pretrained refuse to write them.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)


def _forget_location(path: Path) -> None:
    """Drop the entries in which transformers notes what and how a model was loaded."""
    value = read_json(path)
    for key in ("_name_or_path", "_model_name_or_path", "name_or_path", "gguf_file", "is_local", "local_files_only"):
        value.pop(key, None)
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
