"""Peak memory of pruning, assembling and exporting a checkpoint of more than 3 GB: `python -m benchmarks.memory [--single]`.

Writes a random LLaMA-shaped checkpoint into a temporary folder, a file for each block or, with `--single`, one for all. Then,
each in a process of its own: prunes it with Wanda (4 sequences of 128 tokens, propagation `site`), assembles the pruned model
whole, and exports it. Prints each process's peak resident memory beside what a plain import of torch and transformers takes.

Floors: for pruning the imports, one block (0.18 GB), and the embedding (0.26 GB) or the hidden states; for a whole model the
imports and the model; for an export the imports, one shard (0.54 GB) and one block.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 17,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
IMPORTS = "import torch, transformers; from transformers import LlamaForCausalLM"
PRUNE = """
import sys, torch, secateur
torch.set_num_threads(2)
tokens = torch.randint(0, 32000, (4, 128), generator=torch.Generator().manual_seed(0))
secateur.prune(sys.argv[1], secateur.Recipe("wanda", 0.5), sys.argv[2], tokens=tokens, device="cpu")
"""
ASSEMBLE = """
import sys, secateur
whole = secateur.assemble(sys.argv[1], sys.argv[2], device="cpu")
"""
EXPORT = """
import sys
from pathlib import Path
from secateur.export import export
export(*map(Path, sys.argv[1:]), check=False)
"""
# The high-water mark of this program alone: getrusage would count the parent's memory too, as it was before exec.
PEAK = """
from pathlib import Path
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) * 1024)
"""


def write_checkpoint(folder: Path, single: bool) -> int:
    """One safetensors file a block, as large models come, or a `single` one; returns its size in bytes."""
    hidden, mlp, keys = 2048, 5632, 256
    generator = torch.Generator().manual_seed(0)
    block = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    index: dict[str, str] = {}

    def write(file: str, shapes: dict[str, tuple[int, ...]]) -> None:
        tensors = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
        save_file(tensors, folder / file)
        index.update(dict.fromkeys(tensors, file))

    for number in range(CONFIG["num_hidden_layers"]):
        prefix = f"model.layers.{number}."
        norms = {f"{prefix}{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        write(f"block_{number:02d}.safetensors", norms | {f"{prefix}{name}.weight": shape for name, shape in block.items()})
    ends = {"model.embed_tokens.weight": (32000, hidden), "lm_head.weight": (32000, hidden), "model.norm.weight": (hidden,)}
    write("ends.safetensors", ends)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if single:
        whole = {name: tensor for file in set(index.values()) for name, tensor in load_file(folder / file).items()}
        save_file(whole, folder / "model.safetensors")
        for file in set(index.values()):
            (folder / file).unlink()
    else:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def peak(code: str, *arguments: str) -> float:
    """Peak resident memory, in GB, of a Python process that runs `code`."""
    shown = subprocess.run([sys.executable, "-c", code + PEAK, *arguments], check=True, capture_output=True, text=True)
    return int(shown.stdout.split()[-1]) / 1e9


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as root:
        folder, run = Path(root) / "model", f"{root}/run"
        folder.mkdir()
        size = write_checkpoint(folder, "--single" in sys.argv)
        print(f"checkpoint on disk      {size / 1e9:5.2f} GB")
        print(f"imports alone           {peak(IMPORTS):5.2f} GB")
        print(f"prune (wanda, site)     {peak(PRUNE, str(folder), run):5.2f} GB")
        print(f"assemble, pruned        {peak(ASSEMBLE, str(folder), run):5.2f} GB")
        print(f"export, pruned          {peak(EXPORT, str(folder), run, f'{root}/plain'):5.2f} GB")


if __name__ == "__main__":
    main()
