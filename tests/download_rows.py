"""What the tests of the download stage share: rows, and looks at what was made."""

from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset

from pipelines.schema import DownloadRow


def model(source: str, **fields: Any) -> DownloadRow:
    """A row for a model."""
    return DownloadRow(kind="model", path="models/m", source=source, **fields)


def corpus(source: str, **fields: Any) -> DownloadRow:
    """A row for a corpus."""
    return DownloadRow(kind="corpus", path="corpora/c", source=source, **fields)


def texts(artifacts: Path, split: str = "train", name: str = "c") -> list[str]:
    """The rows of one split of a corpus, of that which `corpus` describes unless named."""
    data = load_dataset("parquet", data_files=str(artifacts / f"corpora/{name}/{split}.parquet"), split="train")
    assert isinstance(data, Dataset) and data.column_names == ["text"]
    return list(data["text"])


def left_behind(artifacts: Path) -> list[Path]:
    """Every file below `artifacts`."""
    return [path for path in artifacts.rglob("*") if path.is_file()]


def write_gguf(path: Path) -> dict[str, Any]:
    """A one-block LLaMA with byte-level tokens, as llama.cpp names its parts."""
    import numpy
    from gguf import GGUFWriter

    random = numpy.random.default_rng(0)
    d, hidden, vocabulary = 8, 16, 8
    shapes = {"token_embd": (vocabulary, d), "output_norm": (d,), "output": (vocabulary, d)}
    shapes |= {f"blk.0.{name}": (d, d) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    shapes |= {"blk.0.attn_norm": (d,), "blk.0.ffn_norm": (d,), "blk.0.ffn_down": (d, hidden)}
    shapes |= {"blk.0.ffn_gate": (hidden, d), "blk.0.ffn_up": (hidden, d)}
    weights = {f"{name}.weight": random.standard_normal(shape, numpy.float32) for name, shape in shapes.items()}
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(d // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<unk>", "<s>", "</s>", "a", "b", "c", "ab", "abc"])
    writer.add_token_types([3, 3, 3, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "ab c"])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights
