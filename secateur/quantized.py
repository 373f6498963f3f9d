"""Quantised checkpoints, told by name. Integers and eight-bit floats without their scales are no weights to prune."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.artifacts import read_json

FULL = ("F64", "F32", "F16", "BF16")
"""Types of plain weights, in safetensors' words."""

# Files in which quantisers say what they did, beside or instead of an entry in config.json.
FILES = {
    "hf_quant_config.json": "ModelOpt",
    "quantize_config.json": "GPTQ",
    "quant_config.json": "AWQ",
    "quantization_config.json": "torchao",
}

# Parts that a quantised weight is stored in, and whose they are: enough where no configuration says it.
PARTS = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "g_idx": "GPTQ",
    "SCB": "bitsandbytes 8 bit",
    "absmax": "bitsandbytes 4 bit",
    "quant_map": "bitsandbytes 4 bit",
    "weight_packed": "compressed-tensors",
    "weight_scale": "fp8",
    "weight_scale_inv": "fp8",
    "weight_scale_2": "ModelOpt",
    "input_scale": "fp8",
    "W_q": "HQQ",
}
SUFFIXES = {"_blocks": "MXFP4", ":qdata": "torchao"}
AGAIN = "get the full-precision checkpoint that it was made from, or dequantise it with the program that made it"


def quantization(folder: Path, config: Mapping[str, Any], dtypes: Mapping[str, str]) -> str | None:
    """Why a checkpoint cannot be read as plain weights, or None. `dtypes`: each stored tensor's type, in safetensors' words; none
    where the weights have not been fetched yet."""
    declared, where = _declared(folder, config)
    found = next(((name, kind) for name in sorted(dtypes) if (kind := _kind(name, dtypes[name]))), None)
    if found:
        name, kind = found
        return f"the weights are quantised ({declared or kind}): {name} is stored as {dtypes[name]}; {AGAIN}"
    if declared and not dtypes:
        return f"{where} says that the weights are quantised ({declared}); {AGAIN}"
    if declared:
        types, what = ", ".join(sorted(set(dtypes.values()))), "entry" if where == "config.json" else "file"
        return (
            f"{where} says that the weights are quantised ({declared}), but they are plain ({types}): delete that {what} "
            "if the full weights were put back"
        )
    return None


def _declared(folder: Path, config: Mapping[str, Any]) -> tuple[str | None, str]:
    """What a configuration says of quantisation, and which file says it."""
    for holder in (config, config.get("text_config")):
        entry = holder.get("quantization_config") or holder.get("compression_config") if isinstance(holder, Mapping) else None
        if entry:
            method = entry.get("quant_method") if isinstance(entry, Mapping) else None
            return str(method or "quantization_config"), "config.json"
    for file, kind in FILES.items():
        if (folder / file).is_file():
            entry = read_json(folder / file)
            details = entry.get("quantization") if isinstance(entry, Mapping) else None
            algorithm = details.get("quant_algo") if isinstance(details, Mapping) else None
            return f"{kind} {algorithm}" if algorithm else kind, file
    return None, ""


def _kind(name: str, dtype: str) -> str | None:
    """The quantiser that a tensor's name or type gives away."""
    last = name.rpartition(".")[2]
    if last in PARTS:
        return PARTS[last]
    if suffix := next((kind for end, kind in SUFFIXES.items() if name.endswith(end)), None):
        return suffix
    # Integer buffers exist (counters, positions, masks); a weight or a bias of integers does not.
    return f"{dtype} weights" if dtype not in FULL and last in ("weight", "bias", "gate_up_proj", "down_proj") else None
