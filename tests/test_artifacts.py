"""Whole or absent: masks, sums and folders on disk."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.artifacts import MARK, SUMS, check_folder, identity, read_sums, read_tensors, write_json, write_tensors
from secateur.errors import UserError
from secateur.masks import PrunedLinear, PrunedStore, pack_bits, unpack_bits
from secateur.outputs import whole_folder
from secateur.registry import Registry
from secateur.statistics.store import pack_triangle, unpack_triangle


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=9))
def test_bits_come_back(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    packed = pack_bits(mask)
    assert len(packed) == (mask.numel() + 7) // 8
    assert torch.equal(unpack_bits(packed, tuple(mask.shape)), mask)


def test_bits_are_packed_as_numpy_packs_them() -> None:
    numpy = pytest.importorskip("numpy")
    mask = torch.rand(7, 11, generator=torch.Generator().manual_seed(0)) > 0.5
    assert pack_bits(mask).tolist() == numpy.packbits(mask.numpy()).tolist()


@given(st.integers(1, 12))
def test_triangles_come_back(width: int) -> None:
    matrix = torch.rand(width, width)
    matrix = matrix + matrix.T
    assert torch.equal(unpack_triangle(pack_triangle(matrix), width), matrix)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_stored_linears_write_themselves_back(dtype: torch.dtype, tmp_path: Path) -> None:
    mask = torch.rand(6, 10, generator=torch.Generator().manual_seed(0)) > 0.4
    values = torch.randn(int((~mask).sum())).to(dtype)
    PrunedStore(tmp_path).write(0, {"a": PrunedLinear(mask, values), "b": PrunedLinear(mask)})
    found = PrunedStore(tmp_path).read(0)
    weight = torch.randn(10, 6, dtype=dtype).T  # a transposed view, as Conv1D has
    expected = torch.zeros(6, 10, dtype=dtype)
    expected[~mask] = values
    found["a"].apply(weight)
    assert torch.equal(weight, expected)
    kept = torch.randn(6, 10)
    expected = kept.masked_fill(mask, 0)
    found["b"].apply(kept)
    assert torch.equal(kept, expected)


def test_values_of_another_mask_are_refused(tmp_path: Path) -> None:
    PrunedStore(tmp_path).write(0, {"a": PrunedLinear(torch.zeros(2, 4, dtype=torch.bool), torch.ones(7))})
    with pytest.raises(UserError, match="7 values for another number of survivors"):
        PrunedStore(tmp_path).read(0)


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    for name, order in {"one": ("a", "b"), "two": ("b", "a")}.items():
        write_tensors(tmp_path / name, {key: torch.ones(3) for key in order}, {key: 1 for key in order})
        write_json(tmp_path / f"{name}.json", {key: 1 for key in order})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert read_tensors(tmp_path / "one")[1] == {"a": 1, "b": 1}


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with pytest.raises(RuntimeError), whole_folder(target) as folder:
        write_json(folder / "a.json", 1)
        raise RuntimeError
    assert not target.exists()
    with whole_folder(target) as folder:
        write_json(folder / "deep" / "a.json", 1)
    first = identity(target)
    assert check_folder(target) == []
    with whole_folder(target, overwrite=True) as folder:
        write_json(folder / "deep" / "a.json", 2)
    assert identity(target) != first
    (target / "deep" / "a.json").write_text("3")
    assert check_folder(target) == ["deep/a.json"]


@pytest.mark.parametrize("before", ["", f"{MARK}\n", "# of another program\n\n"])
@pytest.mark.parametrize("between", ["  ", " *"])
def test_sums_of_other_programs_are_read(before: str, between: str, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text(f"{before}{'0' * 64}{between}a b.txt\n{'f' * 64}{between}d/*.json\n")
    assert read_sums(tmp_path) == {"a b.txt": "0" * 64, "d/*.json": "f" * 64}


@pytest.mark.parametrize("line", ["a.json", f"{'0' * 63}  a.json", f"{'0' * 64} a.json", f"SHA256 (a.json) = {'0' * 64}", "{}"])
def test_what_is_no_line_of_sums_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text(f"{'0' * 64}  b.json\n{line}\n")
    with pytest.raises(UserError, match="SHA256SUMS has a line that is not in the format of sha256sum"):
        read_sums(tmp_path)


def test_registry_names_are_unique_lazy_and_near_ones_are_suggested() -> None:
    registry: Registry[type] = Registry("thing")
    registry.add("path", "pathlib:Path")
    registry.add("path", "pathlib:Path")
    assert registry.get("path") is Path
    with pytest.raises(ValueError, match="thing 'path' is already registered"):
        registry.add("path", int)
    with pytest.raises(UserError, match=r"unknown thing 'paht'; did you mean path\? \(known: path\)"):
        registry.get("paht")
