"""One reader for every architecture: tensors, and a model filled with them, equal stock `from_pretrained` bit for bit."""

from pathlib import Path

import pytest
import torch

import secateur
from secateur.models.skeleton import Skeleton
from tests.architectures import ARCHITECTURES, auto_class, logits, save

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tensors_and_logits_are_those_of_from_pretrained(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    for place, shard in (("single", "50GB"), ("sharded", "60KB")):
        folder = save(name, tmp_path / place, dtype, shard)
        assert (folder / "model.safetensors").exists() == (place == "single")
        stock = auto_class(name).from_pretrained(folder, dtype=dtype).eval()
        wanted, reader = stock.state_dict(), Skeleton(folder, CPU, dtype).reader
        assert set(reader.names()) == set(wanted)
        for key, tensor in reader.read(reader.names()).items():
            assert tensor.dtype == dtype or wanted[key].dtype == torch.float32
            assert torch.equal(tensor.to(wanted[key].dtype), wanted[key]), key
        whole = secateur.assemble(folder, device="cpu", dtype=dtype)
        for key, tensor in whole.state_dict().items():
            assert tensor.dtype == wanted[key].dtype and torch.equal(tensor, wanted[key]), key
        for (key, buffer), (other, expected) in zip(whole.named_buffers(), stock.named_buffers(), strict=True):
            assert key == other and buffer.dtype == expected.dtype and torch.equal(buffer, expected), key
        assert torch.equal(logits(whole, name), logits(stock, name))
