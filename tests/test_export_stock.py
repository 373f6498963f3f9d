"""What `export` writes is what stock `from_pretrained` reads, for every architecture, bit for bit: names, types, shards."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import secateur
from secateur.export import export
from tests.architectures import ARCHITECTURES, auto_class, logits, save


def stored(folder: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Every stored tensor's type and shape."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: (opened.get_tensor(name).dtype, tuple(opened.get_slice(name).get_shape())) for name in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_export_is_the_stock_checkpoint(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = save(name, tmp_path / "model", dtype)
    stock = auto_class(name).from_pretrained(folder, dtype=dtype).eval()
    for place, shard in (("single", 1 << 30), ("sharded", 60_000)):
        export(folder, None, tmp_path / place, shard=shard)
        assert (tmp_path / place / "model.safetensors").exists() == (place == "single")
        assert stored(tmp_path / place) == stored(folder)  # the same names in the same types as save_pretrained wrote
        again = auto_class(name).from_pretrained(tmp_path / place, dtype=dtype).eval()
        assert {key: tensor.dtype for key, tensor in again.state_dict().items()} == {
            key: tensor.dtype for key, tensor in stock.state_dict().items()
        }
        assert torch.equal(logits(again, name), logits(stock, name))


OLD_AND_NEW = ["mixtral", "qwen3_moe", "vit", "deit", "jamba", "granitemoehybrid"]


@pytest.mark.parametrize("name", OLD_AND_NEW)
def test_old_and_new_layouts_are_the_same_model(name: str, tmp_path: Path) -> None:
    """transformers 5 renamed the keys of ViT and merged the experts of mixtures; it reads and writes both layouts."""
    old, new = save(name, tmp_path / "old"), save(name, tmp_path / "new", save_original_format=False)
    assert set(stored(old)) != set(stored(new)) or name in ("jamba", "granitemoehybrid")
    wanted = logits(auto_class(name).from_pretrained(old).eval(), name)
    for folder in (old, new):
        assert torch.equal(logits(secateur.assemble(folder, device="cpu"), name), wanted)
        export(folder, None, tmp_path / f"{folder.name}-out")
        assert stored(tmp_path / f"{folder.name}-out") == stored(old)


def test_shards_are_named_by_their_index_and_no_larger_than_asked(tmp_path: Path) -> None:
    folder = save("llama", tmp_path / "model")
    export(folder, None, tmp_path / "out", shard=100_000)
    table = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert sorted(set(table["weight_map"].values())) == [file.name for file in files] and len(files) > 3
    sizes = {name: dtype.itemsize * torch.Size(shape).numel() for name, (dtype, shape) in stored(tmp_path / "out").items()}
    assert table["metadata"]["total_size"] == sum(sizes.values())
    for file in files:
        held = [sizes[name] for name, place in table["weight_map"].items() if place == file.name]
        assert sum(held) <= 100_000 or len(held) == 1
